//! The program that started it all: a counter task on a datagram socket and, in the same runtime, a
//! writer that sends N datagrams. The program ends as soon as the writer is done.
//!
//! An event loop that closes its sockets at that moment loses what is still queued. Ebbtide drains.
//!
//! ```text
//! cargo run --release --example packet_counter
//! cargo run --release --example packet_counter -- --transport unix --messages 100000 --size 64
//! cargo run --release --example packet_counter -- --stop      # what others lose
//! ```
//!
//! Exit code 1 if anything was lost.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;

use clap::{Parser, ValueEnum};
use ebbtide::net::{Address, DatagramSocket, UdpSocket, UnixDatagram};
use ebbtide::{Drain, DrainReport, Runtime};

/// Sends datagrams to a task that counts them, and ends as soon as they are sent
#[derive(Parser)]
#[command(name = "packet_counter")]
struct Options {
    /// What to send over
    #[arg(long, value_enum, default_value = "both")]
    transport: Transports,
    /// How many datagrams
    #[arg(long, value_name = "N", default_value = "1000")]
    messages: u64,
    /// The length of each; UDP takes at most 65507
    #[arg(long, value_name = "BYTES", default_value = "64")]
    size: usize,
    /// Stop at once instead of draining: shows what others lose
    #[arg(long)]
    stop: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Transports {
    Unix,
    Udp,
    Both,
}

impl Transports {
    fn list(self) -> &'static [Transport] {
        match self {
            Self::Unix => &[Transport::Unix],
            Self::Udp => &[Transport::Udp],
            Self::Both => &[Transport::Unix, Transport::Udp],
        }
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_lost) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("packet_counter: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints a line for each transport; gives how many datagrams were lost.
fn run(options: &Options) -> io::Result<u64> {
    let mut lost = 0;
    for (index, &transport) in options.transport.list().iter().enumerate() {
        let runtime = Runtime::new()?;
        if index == 0 {
            eprintln!("driver: {}", runtime.driver());
        }
        let tally = count_packets(runtime, transport, options)?;
        println!("{tally}");
        lost += tally.lost();
    }
    Ok(lost)
}

/// Runs the program once.
fn count_packets(runtime: Runtime, transport: Transport, options: &Options) -> io::Result<Tally> {
    let received = Rc::new(Cell::new(0));
    let sent = runtime.block_on(async {
        match transport {
            Transport::Unix => {
                let (writer, counter) = UnixDatagram::pair()?;
                ebbtide::spawn(count(counter.into(), Rc::clone(&received)));
                write_unix(&writer, options).await
            }
            Transport::Udp => {
                let counter = UdpSocket::bind("127.0.0.1:0")?;
                let writer = UdpSocket::bind("127.0.0.1:0")?;
                writer.connect(counter.local_addr()?)?;
                ebbtide::spawn(count(counter.into(), Rc::clone(&received)));
                write_udp(&writer, options).await
            }
        }
    })?;
    // The writer is done: the program ends here. What is queued is delivered, or not.
    let report = if options.stop { runtime.stop() } else { runtime.shutdown(Drain::default()) };
    Ok(Tally { transport, sent, received: received.get(), report })
}

/// Counts datagrams until the socket is sealed and drained.
async fn count<A: Address>(socket: DatagramSocket<A>, received: Rc<Cell<u64>>) -> io::Result<()> {
    while let Some(_datagram) = socket.recv().await? {
        received.set(received.get() + 1);
    }
    Ok(())
}

/// Sends without waiting until the peer's queue is full, then waits until there is room.
async fn write_unix(socket: &UnixDatagram, options: &Options) -> io::Result<u64> {
    let payload = vec![b'x'; options.size];
    let mut sent = 0;
    while sent < options.messages {
        match socket.try_send(&payload) {
            Ok(_) => sent += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// UDP tells nobody that a queue is full. Awaiting the sends lets the counter run in between.
async fn write_udp(socket: &UdpSocket, options: &Options) -> io::Result<u64> {
    let payload = vec![b'x'; options.size];
    for _ in 0..options.messages {
        socket.send(&payload).await?;
    }
    Ok(options.messages)
}

/// What one run came to.
struct Tally {
    transport: Transport,
    sent: u64,
    received: u64,
    report: DrainReport,
}

impl Tally {
    /// What neither arrived nor was dropped by the kernel, which no program can prevent.
    fn lost(&self) -> u64 {
        self.sent - self.received - self.report.stats.dropped_by_kernel
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transport, sent, received, .. } = self;
        write!(f, "{transport:<4}  tx {sent}  rx {received}  lost {}", self.lost())?;
        match self.report.stats.dropped_by_kernel {
            0 => Ok(()),
            dropped => write!(f, "  dropped by the kernel, receive buffer full: {dropped}"),
        }
    }
}

#[derive(Clone, Copy)]
enum Transport {
    Unix,
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unix => "unix",
            Self::Udp => "udp",
        })
    }
}
