//! Shutdown while three threads flood a socket. It returns, and every datagram is accounted for.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::os::unix::net;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ebbtide::net::{Address, DatagramSocket, UdpSocket, UnixDatagram};
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome, DrainReport};
use ebbtide_testkit::descriptor::duplicate;
use ebbtide_testkit::report::assert_all_delivered;
use ebbtide_testkit::socket::left_in_queue;
use ebbtide_testkit::{Ledger, Shape, numbered, on_every_shape, unique_name, until};
use socket2::{SockFilter, Socket};

on_every_shape!(
    every_accepted_unix_datagram_is_delivered,
    only_the_drop_counter_explains_a_hole_in_a_udp_sequence,
    every_udp_datagram_is_received_dropped_or_refused,
    a_slow_unix_receiver_is_bounded_by_the_deadline,
    a_slow_udp_receiver_is_bounded_by_the_deadline,
    a_drain_that_waits_for_senders_loses_nothing,
);

const SENDERS: u32 = 3;
const SEEDS: u64 = 10;

const DEADLINE: Duration = Duration::from_millis(10);
/// How long a slow receiver needs for a datagram. Until the deadline it takes at most two
/// datagrams, one at the end of each pause.
const PAUSE: Duration = Duration::from_millis(20);

/// Fails when the socket is not sealed, not cancelled or not reaped, because what is accepted after
/// the last read, or is not read, is then discarded.
fn every_accepted_unix_datagram_is_delivered(shape: Shape) {
    for seed in 0..SEEDS {
        let runtime = shape.runtime();
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        let flood = runtime.block_on(async {
            let (socket, flood) = flooded_unix();
            ebbtide::spawn(receive(Rc::new(socket), Rc::clone(&ledger)));
            until(|| ledger.borrow().received >= some(seed)).await;
            flood
        });
        let report = runtime.shutdown(Drain::default());
        let accepted = flood.stop();
        assert_all_delivered(&report);

        let ledger = ledger.borrow();
        for (sender, accepted) in (0..).zip(accepted) {
            assert_eq!(ledger.seen(sender), accepted, "{}, seed {seed}: {report}", shape.name);
        }
        assert_eq!(ledger.holes, 0, "{}, seed {seed}: {report}", shape.name);
    }
}

/// Fails when what arrives between a cancel and the final completion is discarded.
fn only_the_drop_counter_explains_a_hole_in_a_udp_sequence(shape: Shape) {
    for seed in 0..SEEDS {
        let runtime = shape.runtime();
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        let flood = runtime.block_on(async {
            let (socket, flood) = flooded_udp();
            ebbtide::spawn(receive(Rc::new(socket), Rc::clone(&ledger)));
            until(|| ledger.borrow().received >= some(seed)).await;
            flood
        });
        let report = runtime.shutdown(Drain::default());
        flood.stop();
        assert_all_delivered(&report);

        let ledger = ledger.borrow();
        let run = format!("{}, seed {seed}: {ledger:?}, {report}", shape.name);
        assert_eq!(ledger.received, report.stats.delivered, "{run}");
        assert!(ledger.holes <= report.stats.dropped_by_kernel, "{run}");
    }
}

/// Fails when the socket is not sealed, not reaped, or not read until `EAGAIN`, because some
/// datagrams are then in no count.
fn every_udp_datagram_is_received_dropped_or_refused(shape: Shape) {
    for seed in 0..SEEDS {
        drain_accounts_for_every_datagram(shape, some(seed), flooded_udp, Drain::default());
    }
}

/// Every datagram is received, dropped or refused. While the drain waits for senders, the queue
/// runs empty and is filled again. Fails when an empty queue before the seal counts as the end.
fn a_drain_that_waits_for_senders_loses_nothing(shape: Shape) {
    let policy = Drain::default().quiesce(true);
    drain_accounts_for_every_datagram(shape, some(0), flooded_udp, policy);
}

/// The seal replaces a slow filter. What another CPU passes through that filter at that moment is
/// accepted, and is queued after the queue was found empty. Fails when the drain waits for senders
/// only before the seal. Only one round in ten then finds such a datagram, so there are many
/// rounds.
#[test]
fn a_drain_that_waits_for_senders_reads_what_the_seal_let_through() {
    const ROUNDS: usize = 80;
    if thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return println!("skipped: fewer than two CPUs");
    }
    for shape in Shape::ALL.into_iter().cycle().take(ROUNDS) {
        let policy = Drain::default().quiesce(true);
        drain_accounts_for_every_datagram(shape, 10, flooded_udp_with_a_slow_filter, policy);
    }
}

/// Drains the socket after `least` datagrams of the flood were received.
fn drain_accounts_for_every_datagram(
    shape: Shape,
    least: u64,
    flooded: fn() -> (UdpSocket, Flood),
    policy: Drain,
) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let (socket, flood) = flooded();
        let watch = duplicate(&socket);
        let socket = Rc::new(socket);
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        ebbtide::spawn(receive(Rc::clone(&socket), Rc::clone(&ledger)));
        until(|| ledger.borrow().received >= least).await;
        let report = ebbtide::drain_with(policy).await;
        let sent: u64 = flood.stop().into_iter().sum();
        assert_all_delivered(&report);

        let stats = socket.stats();
        let run = format!("{}, {sent} sent: {stats:?}", shape.name);
        assert_eq!(left_in_queue(&watch), 0, "{run}");
        assert_eq!(stats.received + stats.dropped_by_kernel + stats.refused, sent, "{run}");
        assert_eq!(ledger.borrow().received, stats.received, "{run}");
    });
}

fn a_slow_unix_receiver_is_bounded_by_the_deadline(shape: Shape) {
    for seed in 0..SEEDS {
        let (report, accepted) = cut_short(shape, flooded_unix);
        assert_eq!(report.stats.received, accepted, "{}, seed {seed}: {report}", shape.name);
    }
}

fn a_slow_udp_receiver_is_bounded_by_the_deadline(shape: Shape) {
    for _ in 0..SEEDS {
        cut_short(shape, flooded_udp);
    }
}

/// Shuts down while datagrams wait for a receiver that is too slow. Fails when the deadline does
/// not end the delivery, because everything is then delivered, or when a datagram is counted twice
/// or not at all.
///
/// Returns the report, and how many datagrams the kernel accepted from the senders.
fn cut_short<S, A>(shape: Shape, flooded: fn() -> (S, Flood)) -> (DrainReport, u64)
where
    S: Deref<Target = DatagramSocket<A>> + 'static,
    A: Address + 'static,
{
    let runtime = shape.runtime();
    let taken = Rc::new(Cell::new(0));
    let flood = runtime.block_on(async {
        let (socket, flood) = flooded();
        let socket = Rc::new(socket);
        ebbtide::spawn(receive_slowly(Rc::clone(&socket), Rc::clone(&taken)));
        until(|| taken.get() > 0 && socket.stats().received >= taken.get() + 3).await;
        flood
    });
    let report = runtime.shutdown(Drain::default().deadline(DEADLINE));
    let accepted = flood.stop().into_iter().sum();

    let run = format!("{}: {report}", shape.name);
    assert_eq!(report.outcome, DrainOutcome::DeadlinePassed, "{run}");
    assert!(report.undelivered > 0, "{run}");
    assert_eq!(report.stats.delivered, taken.get(), "{run}");
    assert_eq!(report.stats.delivered + report.undelivered, report.stats.received, "{run}");
    assert_eq!(report.tasks_dropped, 1, "{run}");
    (report, accepted)
}

async fn receive<A: Address>(
    socket: Rc<impl Deref<Target = DatagramSocket<A>>>,
    ledger: Rc<RefCell<Ledger>>,
) {
    while let Some(datagram) = socket.recv().await.unwrap() {
        ledger.borrow_mut().enter(&datagram);
    }
}

async fn receive_slowly<A: Address>(
    socket: Rc<impl Deref<Target = DatagramSocket<A>>>,
    taken: Rc<Cell<u64>>,
) {
    while socket.recv().await.unwrap().is_some() {
        taken.set(taken.get() + 1);
        sleep(PAUSE).await;
    }
}

/// How many datagrams a round receives before it ends.
fn some(seed: u64) -> u64 {
    fastrand::Rng::with_seed(seed).usize(0..=2_000) as u64
}

/// Threads that send as fast as they can. Each returns how many sends were accepted.
struct Flood {
    senders: Vec<JoinHandle<u64>>,
    stop: Arc<AtomicBool>,
}

impl Flood {
    /// Each sender gets its own `send` function. It sends until that fails or it is stopped.
    fn start<S>(connect: impl Fn() -> S) -> Self
    where
        S: Fn(&[u8]) -> io::Result<usize> + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let sender = |id| {
            let (stop, send) = (Arc::clone(&stop), connect());
            thread::spawn(move || {
                let mut accepted = 0;
                while !stop.load(Ordering::Relaxed)
                    && send(&numbered(id, accepted, 12 + accepted as usize % 50)).is_ok()
                {
                    accepted += 1;
                }
                accepted
            })
        };
        let senders = (0..SENDERS).map(sender).collect();
        Self { senders, stop }
    }

    /// Stops the senders. Returns how many datagrams of each were accepted.
    fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    }
}

/// The senders wait while the queue is full, and stop at the seal.
fn flooded_unix() -> (UnixDatagram, Flood) {
    let name = unique_name("flood");
    let socket = UnixDatagram::bind_addr(&name).unwrap();
    let flood = Flood::start(|| {
        let sender = net::UnixDatagram::unbound().unwrap();
        sender.connect_addr(&name).unwrap();
        move |payload| sender.send(payload)
    });
    (socket, flood)
}

/// The senders do not notice the seal, and stop when the port is closed.
fn flooded_udp() -> (UdpSocket, Flood) {
    flood_udp(UdpSocket::bind("127.0.0.1:0").unwrap())
}

/// A flooded UDP socket. Each datagram keeps the CPU that delivers it busy for a while before it is
/// queued.
fn flooded_udp_with_a_slow_filter() -> (UdpSocket, Flood) {
    let socket = Socket::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let instruction = |code: u32, operand| SockFilter::new(code as u16, 0, 0, operand);
    // Parses the packet to find the start of its payload.
    let payload_offset = (libc::SKF_AD_OFF + libc::SKF_AD_PAY_OFFSET).cast_unsigned();
    let take_apart = || instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, payload_offset);
    let attach = |count| {
        let mut accept_slowly: Vec<_> = std::iter::repeat_with(take_apart).take(count).collect();
        accept_slowly.push(instruction(libc::BPF_RET | libc::BPF_K, u32::MAX));
        socket.attach_filter(&accept_slowly)
    };
    // Linux 6.1 has memory for a filter half as long (docs/kernel.md, K-SEAL-6).
    attach(4_000).or_else(|_| attach(2_000)).unwrap();
    flood_udp(UdpSocket::from_std(socket.into()).unwrap())
}

fn flood_udp(socket: UdpSocket) -> (UdpSocket, Flood) {
    let address = socket.local_addr().unwrap();
    let flood = Flood::start(|| {
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(address).unwrap();
        move |payload| sender.send(payload)
    });
    (socket, flood)
}
