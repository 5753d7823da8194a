//! The program that the faults are tried on. It does everything that could lose a datagram: it
//! drops receive futures, holds datagrams, sends empty ones, starts sends that wait and drops some
//! of them, sleeps, and ends with a backlog. It has one thread, and makes the same steps for the
//! same seed.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::net;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::{Datagram, DatagramSocket, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome, DrainReport, Runtime};
use ebbtide_testkit::descriptor::duplicate;
use ebbtide_testkit::socket::left_in_queue;
use ebbtide_testkit::{Ledger, Shape, Transport, numbered, parse};
use futures_util::FutureExt;
use socket2::Socket;

/// The rounds in each half. Every program enters the kernel more than 200 times.
const ROUNDS: usize = 150;

/// The number of turns after which a socket counts as one that no longer receives. A datagram needs
/// one or two turns, and one more for each failed call.
const MOST_TURNS: usize = 100_000;

/// How many datagrams a receiver holds. The smallest pool has more buffers.
const KEPT: usize = 2;

/// What is left of a program after the end of its runtime.
pub(crate) struct Finished<T> {
    pub(crate) channels: Vec<Channel>,
    kept: Rc<RefCell<Vec<Datagram<T>>>>,
    sends: Sends,
    pub(crate) report: DrainReport,
}

/// What a receiver got.
#[derive(Default)]
struct Seen {
    ledger: Ledger,
    empty: u64,
    /// The errnos of the errors that it got.
    errors: Vec<i32>,
    /// True exactly when it got `None`.
    has_ended: bool,
}

impl Seen {
    fn enter(&mut self, payload: &[u8]) {
        match payload {
            [] => self.empty += 1,
            payload => self.ledger.enter(payload),
        }
    }

    fn received(&self) -> u64 {
        self.ledger.received + self.empty
    }
}

/// A plain sender, and the record of its datagrams.
pub(crate) struct Channel {
    id: u32,
    pub(crate) sender: Socket,
    /// A second descriptor of the receiver's socket.
    pub(crate) watch: Socket,
    numbered: u64,
    empty: u64,
    seen: Rc<RefCell<Seen>>,
}

impl Channel {
    fn sent(&self) -> u64 {
        self.numbered + self.empty
    }

    fn send(&mut self, count: usize) {
        for _ in 0..count {
            let payload = numbered(self.id, self.numbered, 12 + self.numbered as usize % 90);
            send(&self.sender, &payload);
            self.numbered += 1;
        }
    }

    fn send_empty(&mut self) {
        send(&self.sender, &[]);
        self.empty += 1;
    }
}

fn send(sender: &Socket, payload: &[u8]) {
    for _ in 0..1_000 {
        match sender.send(payload) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => return assert_eq!(sent.unwrap(), payload.len()),
        }
    }
    panic!("the send is interrupted for ever");
}

/// Runs the program on `shape`, until its runtime has ended.
pub(crate) fn run<T: Transport>(shape: Shape, seed: u64) -> Finished<T> {
    run_on(shape.runtime(), seed)
}

pub(crate) fn run_on<T: Transport>(runtime: Runtime, seed: u64) -> Finished<T> {
    run_with(runtime, seed, || {})
}

/// Runs the program on `runtime`, and calls `middle` in its middle.
pub(crate) fn run_with<T: Transport>(
    runtime: Runtime,
    seed: u64,
    middle: impl FnOnce(),
) -> Finished<T> {
    let mut random = fastrand::Rng::with_seed(seed);
    let kept = Rc::default();
    let mut channels = Vec::new();
    let mut sends = runtime.block_on(async {
        for receiver in [Receiver::Plain, Receiver::Impatient, Receiver::Keeper] {
            channels.push(open::<T>(channels.len() as u32, receiver, seed, &kept));
        }
        Sends::new()
    });
    runtime.block_on(work(&mut channels, &mut sends, &mut random));
    middle();
    runtime.block_on(work(&mut channels, &mut sends, &mut random));
    for channel in &mut channels {
        channel.send(random.usize(0..=60));
        channel.send_empty();
        channel.send(random.usize(0..=60));
    }
    let report = runtime.shutdown(Drain::default());
    Finished { channels, kept, sends, report }
}

#[derive(Clone, Copy)]
enum Receiver {
    Plain,
    /// Drops most of its futures.
    Impatient,
    /// Holds the last datagrams, also past the end of the runtime.
    Keeper,
}

fn open<T: Transport>(
    id: u32,
    receiver: Receiver,
    seed: u64,
    kept: &Rc<RefCell<Vec<Datagram<T>>>>,
) -> Channel {
    let (sender, socket) = T::pair();
    let watch = duplicate(&socket);
    let seen: Rc<RefCell<Seen>> = Rc::default();
    let (socket, kept) = (T::open(socket), Rc::clone(kept));
    ebbtide::spawn(receive(
        socket,
        receiver,
        fastrand::Rng::with_seed(seed),
        kept,
        Rc::clone(&seen),
    ));
    Channel { id, sender, watch, numbered: 0, empty: 0, seen }
}

async fn receive<T: Transport>(
    socket: DatagramSocket<T>,
    receiver: Receiver,
    mut random: fastrand::Rng,
    kept: Rc<RefCell<Vec<Datagram<T>>>>,
    seen: Rc<RefCell<Seen>>,
) {
    loop {
        if let Receiver::Impatient = receiver {
            for _ in 0..random.usize(0..=2) {
                let dropped = socket.recv();
                futures_util::pin_mut!(dropped);
                if let Some(received) = dropped.now_or_never()
                    && note(received, &seen, None).is_break()
                {
                    return;
                }
                yield_now().await;
            }
        }
        let keep = matches!(receiver, Receiver::Keeper).then_some(&kept);
        if note(socket.recv().await, &seen, keep).is_break() {
            return;
        }
    }
}

/// Records what a receiver got, and returns whether there may be more.
fn note<T>(
    received: io::Result<Option<Datagram<T>>>,
    seen: &RefCell<Seen>,
    keep: Option<&Rc<RefCell<Vec<Datagram<T>>>>>,
) -> ControlFlow<()> {
    let mut seen = seen.borrow_mut();
    match received {
        Ok(Some(datagram)) => {
            seen.enter(&datagram);
            if let Some(kept) = keep
                && !datagram.is_empty()
            {
                let mut kept = kept.borrow_mut();
                kept.truncate(KEPT - 1);
                kept.insert(0, datagram);
            }
        }
        Ok(None) => seen.has_ended = true,
        Err(error) => seen.errors.push(number(&error)),
    }
    if seen.has_ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().expect("the error has an errno")
}

async fn work(channels: &mut [Channel], sends: &mut Sends, random: &mut fastrand::Rng) {
    for _ in 0..ROUNDS {
        for channel in &mut *channels {
            channel.send(random.usize(0..=3));
            if random.usize(0..=9) == 0 {
                channel.send_empty();
            }
        }
        match random.usize(0..=15) {
            0 => all_received(channels).await,
            1 => sleep(Duration::from_micros(50)).await,
            2..=5 => sends.try_one(random).await,
            _ => yield_now().await,
        }
    }
}

async fn all_received(channels: &[Channel]) {
    for _ in 0..MOST_TURNS {
        if channels.iter().all(|channel| channel.seen.borrow().received() == channel.sent()) {
            return;
        }
        yield_now().await;
    }
    panic!("a socket no longer receives");
}

/// A socket whose peer has a full queue, so every send waits.
struct Sends {
    socket: Option<UnixDatagram>,
    peer: net::UnixDatagram,
    sent: u64,
    ledger: Ledger,
    /// The errnos of sends that did not take place.
    errors: Vec<i32>,
}

impl Sends {
    fn new() -> Self {
        let (socket, peer) = net::UnixDatagram::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let mut this = Self {
            socket: Some(UnixDatagram::from_std(socket).unwrap()),
            peer,
            sent: 0,
            ledger: Ledger::default(),
            errors: Vec::new(),
        };
        while this.socket.as_ref().unwrap().try_send(&this.next()).is_ok() {
            this.sent += 1;
        }
        this
    }

    fn next(&self) -> Vec<u8> {
        numbered(77, self.sent, 2_000)
    }

    /// A send that waits. It is dropped, or gets space.
    async fn try_one(&mut self, random: &mut fastrand::Rng) {
        let payload = self.next();
        let socket = self.socket.take().expect("the socket is put back");
        let result = {
            let mut send = socket.send(&payload);
            let result = (&mut send).now_or_never();
            assert!(!matches!(result, Some(Ok(_))), "the queue is full");
            if result.is_none() && random.usize(0..=1) == 0 {
                yield_now().await;
            }
            if result.is_none() && random.usize(0..=1) == 0 {
                while self.receive_one() {}
                Some(send.await)
            } else {
                result
            }
        };
        match result {
            None => {}
            Some(Ok(_)) => {
                self.sent += 1;
                while socket.try_send(&self.next()).is_ok() {
                    self.sent += 1;
                }
            }
            Some(Err(error)) => self.errors.push(number(&error)),
        }
        self.socket = Some(socket);
    }

    fn receive_one(&mut self) -> bool {
        let mut memory = [0; 4_096];
        let Ok(len) = self.peer.recv(&mut memory) else { return false };
        self.ledger.enter(&memory[..len]);
        true
    }
}

impl<T: Transport> Finished<T> {
    /// Fails unless everything was delivered once, in order and unchanged. Receivers may only have
    /// got errors that are in `errors`. Returns how many.
    pub(crate) fn check(&mut self, errors: &[i32], run: &str) -> u64 {
        let report = self.report;
        let mut told = 0;
        let mut sent = 0;
        for channel in &self.channels {
            let seen = channel.seen.borrow();
            let run = format!("{run}: {:?}, {report}", seen.ledger);
            assert_eq!(left_in_queue(&channel.watch), 0, "{run}");
            assert_eq!((seen.ledger.received, seen.ledger.holes), (channel.numbered, 0), "{run}");
            assert_eq!(seen.empty, channel.empty, "{run}");
            assert!(seen.has_ended, "{run}");
            let foreign = seen.errors.iter().find(|error| !errors.contains(error));
            assert_eq!(foreign, None, "{run}");
            sent += channel.sent();
            told += seen.errors.len() as u64;
        }
        for datagram in self.kept.borrow().iter() {
            parse(datagram);
        }
        while self.sends.receive_one() {}
        let Sends { sent: accepted, ledger, errors: failed, .. } = &self.sends;
        assert!(failed.iter().all(|error| errors.contains(error)), "{run}: {failed:?}");
        assert_eq!((ledger.received, ledger.holes), (*accepted, 0), "{run}: sends");

        assert_eq!(report.outcome, DrainOutcome::Complete, "{run}: {report}");
        assert_eq!((report.stats.received, report.stats.delivered), (sent, sent), "{report}");
        let left = (report.undelivered, report.unsealed, report.unread, report.unfinished);
        assert_eq!(left, (0, 0, 0, 0), "{run}: {report}");
        assert_eq!(report.operations_leaked, 0, "{run}: {report}");
        assert_eq!(report.stats.errors, told, "{run}: {report}");
        told
    }
}
