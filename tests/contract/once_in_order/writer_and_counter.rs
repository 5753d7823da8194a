//! `examples/packet_counter.rs` with every kind of sender. The runtime is shut down as soon as the
//! writer has ended, and nothing is lost.
//!
//! On every shape, 1 000 datagrams of every size are sent, on the default ring and on epoll 100
//! 000. UDP does not hold a sender back. So a writer outside of the runtime waits for an answer
//! after every window of datagrams. A window fits into the receive buffer, so the kernel drops
//! nothing.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::{DatagramSocket, UdpSocket as Ours, UnixAddr, UnixDatagram};
use ebbtide::{Drain, DrainOutcome, Runtime};
use ebbtide_testkit::child::again;
use ebbtide_testkit::report::assert_balanced;
use ebbtide_testkit::{Ledger, Shape, Transport, numbered, on_every_shape};
use futures_util::future::{Either, select};
use socket2::{Domain, Socket, Type};

on_every_shape!(
    unix_datagrams_of_the_same_task_are_counted,
    unix_datagrams_of_another_task_are_counted,
    unix_datagrams_of_another_thread_are_counted,
    unix_datagrams_of_another_process_are_counted,
    udp_datagrams_of_the_same_task_are_counted,
    udp_datagrams_of_another_task_are_counted,
    udp_datagrams_of_another_thread_are_counted,
    udp_datagrams_of_another_process_are_counted,
    stop_loses_what_was_queued_and_says_how_much,
);

const FEW: u64 = 1_000;
const MANY: u64 = 100_000;
const SIZES: [usize; 6] = [0, 1, 5, 1_472, 9_000, 65_507];

fn unix_datagrams_of_the_same_task_are_counted(shape: Shape) {
    few_of_every_size::<UnixAddr>(shape, Sender::SameTask);
}

fn unix_datagrams_of_another_task_are_counted(shape: Shape) {
    few_of_every_size::<UnixAddr>(shape, Sender::AnotherTask);
}

fn unix_datagrams_of_another_thread_are_counted(shape: Shape) {
    few_of_every_size::<UnixAddr>(shape, Sender::AnotherThread);
}

fn unix_datagrams_of_another_process_are_counted(shape: Shape) {
    few_of_every_size::<UnixAddr>(shape, Sender::AnotherProcess);
}

fn udp_datagrams_of_the_same_task_are_counted(shape: Shape) {
    few_of_every_size::<SocketAddr>(shape, Sender::SameTask);
}

fn udp_datagrams_of_another_task_are_counted(shape: Shape) {
    few_of_every_size::<SocketAddr>(shape, Sender::AnotherTask);
}

fn udp_datagrams_of_another_thread_are_counted(shape: Shape) {
    few_of_every_size::<SocketAddr>(shape, Sender::AnotherThread);
}

fn udp_datagrams_of_another_process_are_counted(shape: Shape) {
    few_of_every_size::<SocketAddr>(shape, Sender::AnotherProcess);
}

#[test]
fn a_hundred_thousand_datagrams_of_the_same_task_are_counted() {
    many_on_both_transports(Sender::SameTask);
}

#[test]
fn a_hundred_thousand_datagrams_of_another_task_are_counted() {
    many_on_both_transports(Sender::AnotherTask);
}

#[test]
fn a_hundred_thousand_datagrams_of_another_thread_are_counted() {
    many_on_both_transports(Sender::AnotherThread);
}

#[test]
fn a_hundred_thousand_datagrams_of_another_process_are_counted() {
    many_on_both_transports(Sender::AnotherProcess);
}

fn few_of_every_size<T: Written>(shape: Shape, sender: Sender) {
    for size in SIZES {
        nothing_is_lost::<T>(shape, sender, Load { messages: FEW, size });
    }
}

fn many_on_both_transports(sender: Sender) {
    for size in SIZES {
        let load = Load { messages: MANY, size };
        for shape in [Shape::DEFAULT, Shape::EPOLL] {
            nothing_is_lost::<UnixAddr>(shape, sender, load);
            nothing_is_lost::<SocketAddr>(shape, sender, load);
        }
    }
}

/// Fails when the drain does not cancel, reap, and read until `EAGAIN`.
fn nothing_is_lost<T: Written>(shape: Shape, sender: Sender, load: Load) {
    let runtime = shape.runtime();
    let tally = write_and_count::<T>(&runtime, sender, load);
    let report = runtime.shutdown(Drain::default());

    let tally = tally.borrow();
    let dropped = report.stats.dropped_by_kernel;
    let run = format!("{}, {sender:?}, {load:?}: {tally:?}; {report}", shape.name);
    assert_eq!(tally.received + dropped, load.messages, "{run}");
    assert!(tally.ledger.holes <= dropped, "{run}");
    // A task sends more in one poll than fits into a pool of four.
    let outruns_the_pool = sender.shares_the_thread() && shape.name == Shape::TINY.name;
    assert!(T::MAY_DROP && outruns_the_pool || dropped == 0, "{run}");
    assert!(tally.has_ended, "the counter did not get the end; {run}");
    assert_balanced(&report);
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Complete, 0), "{run}");
}

/// Shows that the tests above can find a loss.
///
/// The writer fills the queue before the counter runs, and the program ends.
fn stop_loses_what_was_queued_and_says_how_much(shape: Shape) {
    fn lost<T: Written>(shape: Shape) {
        const QUEUED: u64 = 100;
        let runtime = shape.runtime();
        let (writer, counter) = T::connected_pair();
        let tally = Rc::default();
        runtime.block_on(async {
            let queued = Load { messages: QUEUED, size: 12 };
            ebbtide::spawn(count::<T>(T::open(counter), Rc::clone(&tally), queued, None));
            for number in 0..QUEUED {
                writer.send(&numbered(0, number, 12)).unwrap();
            }
        });
        let report = runtime.stop();
        assert_eq!((tally.borrow().received, report.undelivered), (0, QUEUED), "{report}");
        assert_eq!(report.outcome, DrainOutcome::DeadlinePassed);
        assert_balanced(&report);
    }
    lost::<UnixAddr>(shape);
    lost::<SocketAddr>(shape);
}

/// Not a test. [`Sender::AnotherProcess`] starts it with a socket as standard input.
#[test]
#[ignore = "the writer process of the other tests"]
fn writer_process() {
    let Ok(load) = std::env::var(WRITER_PROCESS) else { return };
    let (messages, size) = load.split_once(' ').unwrap();
    let load = Load { messages: messages.parse().unwrap(), size: size.parse().unwrap() };
    let socket = Socket::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let is_unix = socket.domain().unwrap() == Domain::UNIX;
    write_by_hand(&socket, load, if is_unix { None } else { Some(load.window()) });
}

/// The environment variable with the load of a writer process.
const WRITER_PROCESS: &str = "EBBTIDE_TEST_WRITER_PROCESS";

/// Where the writer runs, relative to the counter.
#[derive(Clone, Copy, Debug)]
enum Sender {
    SameTask,
    AnotherTask,
    AnotherThread,
    AnotherProcess,
}

impl Sender {
    /// Whether awaiting its sends lets the counter run.
    fn shares_the_thread(self) -> bool {
        matches!(self, Self::SameTask | Self::AnotherTask)
    }
}

#[derive(Clone, Copy, Debug)]
struct Load {
    messages: u64,
    size: usize,
}

impl Load {
    /// How many of its datagrams fit into a receive buffer of the default size.
    fn window(self) -> u64 {
        (100_000 / (1_000 + 5 * self.size as u64)).max(1)
    }

    /// Whether the writer waits for an answer after this many datagrams. It does not after the
    /// last, when it ends.
    fn waits_after(self, datagrams: u64, window: Option<u64>) -> bool {
        datagrams < self.messages && window.is_some_and(|window| datagrams.is_multiple_of(window))
    }

    /// Its payloads, with numbers if they are long enough.
    fn payloads(self) -> impl Iterator<Item = Vec<u8>> {
        (0..self.messages).map(move |number| match self.size {
            0..12 => vec![0; self.size],
            size => numbered(0, number, size),
        })
    }
}

#[derive(Debug, Default)]
struct Tally {
    received: u64,
    ledger: Ledger,
    /// True exactly when the counter got `None`.
    has_ended: bool,
}

impl Tally {
    /// Records a datagram. Returns how many there were.
    fn enter(&mut self, datagram: &[u8], size: usize) -> u64 {
        assert_eq!(datagram.len(), size);
        self.received += 1;
        if size >= 12 {
            self.ledger.enter(datagram);
        }
        self.received
    }
}

/// Runs until the writer has ended, and not a turn longer.
fn write_and_count<T: Written>(
    runtime: &Runtime,
    sender: Sender,
    load: Load,
) -> Rc<RefCell<Tally>> {
    let tally = Rc::default();
    let (writer, counter) = T::connected_pair();
    runtime.block_on(async {
        let window = (T::MAY_DROP && !sender.shares_the_thread()).then(|| load.window());
        let counting = count::<T>(T::open(counter), Rc::clone(&tally), load, window);
        match sender {
            Sender::SameTask => {
                // The writer is polled first. Each poll sends all that its budget allows.
                let writing = Box::pin(write::<T>(T::open(writer), load));
                match select(writing, Box::pin(counting)).await {
                    Either::Left((_done, counting)) => drop(ebbtide::spawn(counting)),
                    Either::Right(_) => panic!("the counter ended before the drain"),
                }
            }
            Sender::AnotherTask => {
                ebbtide::spawn(counting);
                write::<T>(T::open(writer), load).await;
            }
            Sender::AnotherThread => {
                ebbtide::spawn(counting);
                let writing = move || write_by_hand(&writer, load, window);
                ebbtide::spawn_blocking(writing).await.unwrap();
            }
            Sender::AnotherProcess => {
                ebbtide::spawn(counting);
                ebbtide::spawn_blocking(move || write_in_a_process(writer, load)).await.unwrap();
            }
        }
    });
    tally
}

/// Counts to the end. Answers after every window of datagrams, if the writer waits for it.
async fn count<T: Written>(
    socket: DatagramSocket<T>,
    tally: Rc<RefCell<Tally>>,
    load: Load,
    window: Option<u64>,
) {
    let socket = T::Socket::from(socket);
    while let Some(datagram) = socket.recv().await.unwrap() {
        let received = tally.borrow_mut().enter(&datagram, load.size);
        if load.waits_after(received, window) {
            T::send(&socket, b"go on").await.unwrap();
        }
    }
    tally.borrow_mut().has_ended = true;
}

async fn write<T: Written>(socket: DatagramSocket<T>, load: Load) {
    let socket = T::Socket::from(socket);
    for payload in load.payloads() {
        T::send(&socket, &payload).await.unwrap();
    }
}

/// Writes with a plain blocking socket, like a program without a runtime.
fn write_by_hand(socket: &Socket, load: Load, window: Option<u64>) {
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    for (number, payload) in (1..).zip(load.payloads()) {
        assert_eq!(socket.send(&payload).unwrap(), load.size);
        if load.waits_after(number, window) {
            socket.recv(&mut [MaybeUninit::uninit(); 8]).expect("the counter answers");
        }
    }
}

fn write_in_a_process(socket: Socket, load: Load) {
    let status = again("once_in_order::writer_and_counter::writer_process")
        .env(WRITER_PROCESS, format!("{} {}", load.messages, load.size))
        .stdin(OwnedFd::from(socket))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the writer process failed: {status}");
}

/// How a writer and a counter use a transport.
trait Written: Transport {
    type Socket: From<DatagramSocket<Self>> + std::ops::Deref<Target = DatagramSocket<Self>>;

    /// The connected sockets of the writer and of the counter.
    fn connected_pair() -> (Socket, Socket);

    async fn send(socket: &Self::Socket, payload: &[u8]) -> io::Result<()>;
}

impl Written for UnixAddr {
    type Socket = UnixDatagram;

    fn connected_pair() -> (Socket, Socket) {
        Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap()
    }

    /// Sends until the queue is full, then waits for space.
    async fn send(socket: &Self::Socket, payload: &[u8]) -> io::Result<()> {
        loop {
            match socket.try_send(payload) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.writable().await?;
                }
                result => return result.map(drop),
            }
        }
    }
}

impl Written for SocketAddr {
    type Socket = Ours;

    fn connected_pair() -> (Socket, Socket) {
        let (writer, counter) = (udp_socket(), udp_socket());
        writer.connect(counter.local_addr().unwrap()).unwrap();
        counter.connect(writer.local_addr().unwrap()).unwrap();
        (writer.into(), counter.into())
    }

    async fn send(socket: &Self::Socket, payload: &[u8]) -> io::Result<()> {
        socket.send(payload).await.map(drop)
    }
}

fn udp_socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}
