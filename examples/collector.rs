//! A collector in the manner of statsd: counts lines per metric on a UDP and a Unix datagram
//! socket, and prints a line a second. On SIGTERM or SIGINT it takes in all that is queued, and
//! ends with what it received. A second signal meanwhile ends it at once.
//!
//! ```text
//! cargo run --release --example collector -- --udp 127.0.0.1:8125 --unix /tmp/collector.sock
//! echo 'requests:1|c' | nc -u -q0 127.0.0.1 8125
//! logger -u /tmp/collector.sock hello
//! ```
//!
//! Exit code 1 if it ended before it had taken in all, 2 if it cannot start or a socket fails.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use ebbtide::net::{Address, DatagramSocket, UdpSocket, UnixDatagram};
use ebbtide::signal;
use ebbtide::time::timeout_at;
use ebbtide::{DrainReport, JoinHandle, Runtime};

/// Counts lines per metric on a UDP and a Unix datagram socket.
///
/// At least one of the two. SIGTERM or SIGINT ends it when it has received all that is queued; a
/// second one ends it at once.
#[derive(Parser)]
#[command(name = "collector")]
#[group(required = true, multiple = true)]
struct Options {
    /// Receive on a UDP socket, for example 127.0.0.1:8125
    #[arg(long, value_name = "ADDR")]
    udp: Option<String>,
    /// Receive on a Unix datagram socket
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(report) if report.undelivered > 0 => ExitCode::FAILURE,
        Ok(_all_delivered) => ExitCode::SUCCESS,
        // Nobody reads what it prints any more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("collector: {error}");
            ExitCode::from(2)
        }
    }
}

/// Collects until a signal ends it, and says what it received.
fn run(options: &Options) -> io::Result<DrainReport> {
    let runtime = Runtime::new()?;
    eprintln!("driver: {}", runtime.driver());
    let tally = Rc::default();
    let report = runtime.block_on(collect(options, &tally))?;
    let Tally { datagrams, lines, .. } = *tally.borrow();
    say(format_args!("received {datagrams} datagrams, {lines} lines"))?;
    say(format_args!("{report}"))?;
    Ok(report)
}

async fn collect(options: &Options, tally: &Rc<RefCell<Tally>>) -> io::Result<DrainReport> {
    let drained = signal::drain_on_terminate()?;
    let mut receivers = Vec::new();
    if let Some(address) = &options.udp {
        let socket = UdpSocket::bind(address).map_err(|error| cannot_bind(address, &error))?;
        say(format_args!("listening on udp {}", socket.local_addr()?))?;
        receivers.push(ebbtide::spawn(count(socket.into(), Rc::clone(tally))));
    }
    let _path_to_remove = match &options.unix {
        Some(path) => {
            remove_if_stale(path)?;
            let bound = UnixDatagram::bind(path);
            let socket = bound.map_err(|error| cannot_bind(path.display(), &error))?;
            let path_to_remove = BoundPath(path);
            say(format_args!("listening on unix {}", path.display()))?;
            receivers.push(ebbtide::spawn(count(socket.into(), Rc::clone(tally))));
            Some(path_to_remove)
        }
        None => None,
    };
    let report = print_until(drained, tally, &receivers).await?;
    for receiver in receivers {
        receiver.await??;
    }
    report.ok_or_else(|| io::Error::other("the receivers ended before they were told to"))
}

/// The error of `bind` is that of the kernel, which names no address.
fn cannot_bind(address: impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot bind {address}: {error}"))
}

/// Counts until the socket is sealed and drained.
async fn count<A: Address>(socket: DatagramSocket<A>, tally: Rc<RefCell<Tally>>) -> io::Result<()> {
    while let Some(datagram) = socket.recv().await? {
        tally.borrow_mut().enter(&datagram);
    }
    Ok(())
}

/// Prints a line a second until all is drained, or a receiver has failed: then there is no report.
async fn print_until(
    mut drained: JoinHandle<DrainReport>,
    tally: &RefCell<Tally>,
    receivers: &[JoinHandle<io::Result<()>>],
) -> io::Result<Option<DrainReport>> {
    let mut printed = Instant::now();
    let mut lines_before = 0;
    loop {
        if let Ok(report) = timeout_at(printed + Duration::from_secs(1), &mut drained).await {
            return Ok(Some(report?));
        }
        if receivers.iter().any(JoinHandle::is_finished) {
            return Ok(None);
        }
        let tally = tally.borrow();
        let rate = (tally.lines - lines_before) as f64 / printed.elapsed().as_secs_f64();
        say(format_args!("{tally}, {rate:.0} lines/s{}", Busiest(&tally.metrics)))?;
        lines_before = tally.lines;
        printed = Instant::now();
    }
}

/// As `println!`, but with the error: stdout may be a pipe that nobody reads any more.
fn say(line: fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// What was received.
#[derive(Default)]
struct Tally {
    datagrams: u64,
    lines: u64,
    metrics: HashMap<String, u64>,
}

/// Names that are told apart, and their length: a sender must not be able to use up the memory.
const MAX_METRICS: usize = 10_000;
const MAX_NAME_BYTES: usize = 128;

/// Where lines count that name no metric, or one too many.
const OTHER: &str = "other";

impl Tally {
    fn enter(&mut self, datagram: &[u8]) {
        self.datagrams += 1;
        for line in datagram.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            self.lines += 1;
            self.enter_line(metric(line).unwrap_or(OTHER));
        }
    }

    fn enter_line(&mut self, metric: &str) {
        if let Some(count) = self.metrics.get_mut(metric) {
            *count += 1;
            return;
        }
        let name = if self.metrics.len() < MAX_METRICS { metric } else { OTHER };
        *self.metrics.entry(name.to_owned()).or_default() += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} datagrams, {} lines", self.datagrams, self.lines)
    }
}

/// The metric of a line: what is before the colon in `name:value|type`. The lines of `logger`
/// (`<13>Nov 23 06:44:21 ...`) all count as `syslog`: their first colon is that of the time.
fn metric(line: &[u8]) -> Option<&str> {
    if line.starts_with(b"<") {
        return Some("syslog");
    }
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = str::from_utf8(&line[..colon]).ok()?;
    let is_name =
        (1..=MAX_NAME_BYTES).contains(&colon) && name.bytes().all(|b| b.is_ascii_graphic());
    is_name.then_some(name)
}

/// The three metrics with the most lines.
struct Busiest<'a>(&'a HashMap<String, u64>);

impl fmt::Display for Busiest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut metrics: Vec<_> = self.0.iter().collect();
        metrics.sort_unstable_by(|(a, a_lines), (b, b_lines)| b_lines.cmp(a_lines).then(a.cmp(b)));
        for (metric, lines) in metrics.into_iter().take(3) {
            write!(f, ", {metric} {lines}")?;
        }
        Ok(())
    }
}

/// Removes a socket that a program left behind; leaves alone one on which somebody listens, and
/// what is not a socket. Whether it is one has to be asked: connecting to any other file is refused
/// just the same.
fn remove_if_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket());
    let probe = std::os::unix::net::UnixDatagram::unbound()?;
    match probe.connect(path) {
        Err(error) if is_socket && error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path)
        }
        // Binding will tell.
        _ => Ok(()),
    }
}

/// Removes the path that a socket was bound to when it is dropped.
struct BoundPath<'a>(&'a Path);

impl Drop for BoundPath<'_> {
    fn drop(&mut self) {
        // It fails only if somebody else has removed it.
        let _ = fs::remove_file(self.0);
    }
}
