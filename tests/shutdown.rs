//! The drain: what was queued is delivered, once and in order, and then it is over.
//!
//! Backlogs, queues and pools are random in [`shutdown_delivers_every_backlog`]: 200 seeds of 64
//! sockets, in one seed of 5 with up to 1 000 datagrams on each, in the others with up to 50.

#[macro_use]
mod support;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ebbtide::net::{Address, Datagram, DatagramSocket, UdpSocket, UnixAddr, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome, DrainReport, Runtime, drain, drain_with};
use futures_util::FutureExt;
use socket2::Socket;
use support::{Ledger, Random, Shape, Transport, duplicate, left_in_queue, numbered, unique_name};

on_every_shape!(
    a_drained_socket_hands_out_its_backlog_and_then_none_while_others_go_on,
    draining_twice_delivers_what_came_in_between,
    dropping_the_runtime_drains_it,
    a_panic_that_unwinds_through_the_runtime_drains_it,
    a_receiver_that_keeps_every_datagram_gets_them_all,
    peers_of_a_sealed_unix_socket_get_broken_pipe,
    datagrams_for_a_sealed_udp_socket_are_counted_as_refused,
    every_receiver_of_a_socket_sees_the_end,
    a_drain_lasts_until_the_last_datagram_was_handled,
    a_drain_waits_for_a_receiver_only_while_one_may_still_come,
    what_is_thrown_away_with_a_dropped_socket_is_told,
    the_report_accounts_for_every_datagram,
    a_socket_goes_on_receiving_after_every_end_of_its_receive,
    an_address_can_be_bound_again_after_a_shutdown,
    an_address_can_be_bound_again_after_its_socket_was_dropped,
    a_socket_that_outlives_its_runtime_is_closed_but_harmless,
    a_socket_that_outlives_its_runtime_can_be_polled_any_number_of_times,
    every_method_of_a_socket_that_outlives_its_runtime_says_why_it_fails,
);

const SEEDS: u64 = 200;
const SOCKETS: u32 = 64;
const DATAGRAMS: u64 = 100;

/// Fails when a receive is not cancelled, when it is reaped once instead of to its final completion
/// (here a small completion queue overflows), or when reading stops before `EAGAIN`.
#[test]
fn shutdown_delivers_every_backlog() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let most = if seed % 5 == 0 { 1_000 } else { 50 };
        let completions = random.within(8..=1024);
        let runtime = Runtime::builder()
            .submission_entries(random.within(2..=completions))
            .completion_entries(completions)
            .buffers(random.within(4..=512))
            .build()
            .unwrap();
        let mut backlogs: Vec<Box<dyn Backlog>> = runtime.block_on(async {
            (0..SOCKETS)
                .map(|sender| match random.within(0..=1) {
                    0 => Box::new(Queue::<UnixAddr>::open(sender)) as Box<dyn Backlog>,
                    _ => Box::new(Queue::<SocketAddr>::open(sender)),
                })
                .collect()
        });
        runtime.block_on(async {
            // A part may be in the inboxes already, or be delivered, when the rest arrives.
            for _ in 0..random.within(1..=3) {
                for backlog in &mut backlogs {
                    backlog.grow(random.within(0..=most / 3));
                }
                for _ in 0..random.within(0..=2) {
                    yield_now().await;
                }
            }
            for backlog in &backlogs {
                backlog.spawn_receiver();
            }
        });
        let report = runtime.shutdown(Drain::default());
        for backlog in &backlogs {
            backlog.check(seed);
        }
        assert_complete(&report);
        assert_eq!(report.sockets, SOCKETS as usize, "seed {seed}");
        assert_eq!(report.stats.received, report.stats.delivered, "seed {seed}: {report}");
    }
}

/// Fails when the drain of one socket does not cancel, reap, and read until `EAGAIN`, and when a
/// receive that found the pool empty (the other socket had it all) is not armed again.
fn a_drained_socket_hands_out_its_backlog_and_then_none_while_others_go_on(shape: Shape) {
    fn check<T: Transport>(shape: Shape) {
        shape.runtime().block_on(async {
            let mut drained = Queue::<T>::open(0);
            let mut other = Queue::<T>::open(1);
            drained.grow(DATAGRAMS as usize);
            other.grow(DATAGRAMS as usize);
            drained.receiver.drain().unwrap();

            drained.take_all();
            drained.check(0);
            assert!(drained.receiver.recv().await.unwrap().is_none());
            assert_eq!(left_in_queue(&drained.watch), 0, "{}", shape.name);
            drained.receiver.drain().unwrap();

            let mut ledger = Ledger::default();
            while ledger.received < other.sent {
                ledger.enter(&arrival(&other.receiver).await.expect("it is deaf"));
            }
            assert_eq!(ledger.holes, 0);
        });
    }
    check::<UnixAddr>(shape);
    check::<SocketAddr>(shape);
}

fn draining_twice_delivers_what_came_in_between(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let mut first = Queue::<SocketAddr>::open(0);
        first.grow(DATAGRAMS as usize);
        first.spawn_receiver();
        assert_complete(&ebbtide::drain().await);
        first.check(0);

        let mut second = Queue::<UnixAddr>::open(1);
        second.grow(DATAGRAMS as usize);
        second.spawn_receiver();
        let report = ebbtide::drain().await;
        assert_complete(&report);
        first.check(0);
        second.check(0);
        assert_eq!(report.stats.delivered, first.sent + second.sent, "{report}");
    });
    let report = runtime.shutdown(Drain::default());
    assert_eq!(report.stats.delivered, 2 * DATAGRAMS, "{}: {report}", shape.name);
}

fn dropping_the_runtime_drains_it(shape: Shape) {
    let runtime = shape.runtime();
    let mut queue = runtime.block_on(async { Queue::<UnixAddr>::open(0) });
    runtime.block_on(async { queue.spawn_receiver() });
    queue.grow(DATAGRAMS as usize);
    drop(runtime);
    queue.check(0);
}

fn a_panic_that_unwinds_through_the_runtime_drains_it(shape: Shape) {
    let kept = Cell::new(None);
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let runtime = shape.runtime();
        runtime.block_on(async {
            let mut queue = Queue::<UnixAddr>::open(0);
            queue.spawn_receiver();
            queue.grow(DATAGRAMS as usize);
            kept.set(Some(queue));
            resume_unwind(Box::new("the panic of the test"));
        });
    }));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"the panic of the test"));
    kept.take().expect("it was kept before the panic").check(0);
}

/// Fails when the drain reads into the pool only, which is empty.
fn a_receiver_that_keeps_every_datagram_gets_them_all(shape: Shape) {
    const KEPT: usize = 700;
    let runtime = shape.runtime();
    let kept = Rc::new(RefCell::new(Vec::<Datagram>::new()));
    runtime.block_on(async {
        let mut queue = Queue::<SocketAddr>::open(0);
        let receiver = Rc::clone(&queue.receiver);
        let kept = Rc::clone(&kept);
        ebbtide::spawn(async move {
            while let Some(datagram) = receiver.recv().await.unwrap() {
                kept.borrow_mut().push(datagram);
            }
        });
        queue.grow(KEPT);
    });
    let report = runtime.shutdown(Drain::default());
    assert_complete(&report);
    let mut ledger = Ledger::default();
    for datagram in kept.take() {
        ledger.enter(&datagram);
    }
    assert_eq!(ledger.received + report.stats.dropped_by_kernel, KEPT as u64, "{report}");
}

/// Fails when Unix sockets are not sealed: the sends then succeed.
fn peers_of_a_sealed_unix_socket_get_broken_pipe(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let (peer, sealed) = UnixDatagram::pair().unwrap();
        peer.send(b"before").await.unwrap();
        sealed.drain().unwrap();
        assert_eq!(peer.try_send(b"after").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(peer.send(b"after").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(&sealed.try_recv().unwrap().expect("it was queued")[..], b"before");
        assert!(sealed.try_recv().unwrap().is_none());
        sealed.send(b"a sealed socket can send").await.unwrap();
        assert!(peer.recv().await.unwrap().is_some(), "{}", shape.name);
    });
}

/// Fails when UDP sockets are not sealed: the datagrams are then queued, and nothing is refused.
fn datagrams_for_a_sealed_udp_socket_are_counted_as_refused(shape: Shape) {
    const REFUSED: u64 = 7;
    let runtime = shape.runtime();
    let mut queue = runtime.block_on(async { Queue::<SocketAddr>::open(0) });
    queue.grow(DATAGRAMS as usize);
    queue.receiver.drain().unwrap();
    for _ in 0..REFUSED {
        queue.sender.send(b"late").unwrap();
    }
    queue.take_all();
    queue.check(0);
    assert_eq!(queue.receiver.stats().refused, REFUSED, "{}", shape.name);
    let report = runtime.shutdown(Drain::default());
    assert_complete(&report);
    assert_eq!(report.stats.refused, REFUSED, "{report}");
}

/// Fails when the drain wakes only one of those who wait: the task of another is then dropped.
fn every_receiver_of_a_socket_sees_the_end(shape: Shape) {
    let runtime = shape.runtime();
    let ended = Rc::new(Cell::new(0));
    let delivered = Rc::new(Cell::new(0));
    runtime.block_on(async {
        let mut queue = Queue::<UnixAddr>::open(0);
        for _ in 0..3 {
            let receiver = Rc::clone(&queue.receiver);
            let (ended, delivered) = (Rc::clone(&ended), Rc::clone(&delivered));
            ebbtide::spawn(async move {
                while let Some(_datagram) = receiver.recv().await.unwrap() {
                    delivered.set(delivered.get() + 1);
                }
                ended.set(ended.get() + 1);
            });
        }
        // All wait before anything arrives; the datagram wakes one of them.
        yield_now().await;
        queue.grow(1);
    });
    let report = runtime.shutdown(Drain::default());
    assert_complete(&report);
    assert_eq!((delivered.get(), ended.get()), (1, 3), "{}", shape.name);
    assert_eq!(report.tasks_dropped, 0, "{report}");
}

/// Fails when a receiver that was handed a datagram need not come back for the end.
fn a_drain_lasts_until_the_last_datagram_was_handled(shape: Shape) {
    shape.runtime().block_on(async {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        for _ in 0..3 {
            sender.send(b"takes its time").await.unwrap();
        }
        let handled = Rc::new(Cell::new(0));
        ebbtide::spawn({
            let handled = Rc::clone(&handled);
            async move {
                while receiver.recv().await.unwrap().is_some() {
                    sleep(Duration::from_millis(5)).await;
                    handled.set(handled.get() + 1);
                }
            }
        });
        let report = drain().await;
        assert_eq!((handled.get(), report.undelivered), (3, 0), "{}: {report}", shape.name);
    });
}

/// A timer may lead to a receiver; without one there is none to wait for. Fails when a socket that
/// nobody has received from is waited for never, or always.
fn a_drain_waits_for_a_receiver_only_while_one_may_still_come(shape: Shape) {
    shape.runtime().block_on(async {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        sender.send(b"early").await.unwrap();
        let late = ebbtide::spawn(async move {
            sleep(Duration::from_millis(5)).await;
            receiver.recv().await.unwrap().is_some()
        });
        let report = drain().await;
        assert_eq!(report.undelivered, 0, "{}: {report}", shape.name);
        assert!(late.await.unwrap());

        let (sender, _unread) = UnixDatagram::pair().unwrap();
        sender.send(b"for nobody").await.unwrap();
        let report = drain_with(Drain::default().deadline(Duration::from_secs(1))).await;
        assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Unclaimed, 1), "{report}");
    });
}

/// What had left the kernel is counted; of what had not it is said that there was some.
fn what_is_thrown_away_with_a_dropped_socket_is_told(shape: Shape) {
    for turns in 0..4 {
        let runtime = shape.runtime();
        runtime.block_on(async {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            for _ in 0..DATAGRAMS {
                sender.try_send(b"for nobody").unwrap();
            }
            for _ in 0..turns {
                yield_now().await;
            }
            drop(receiver);
        });
        let report = runtime.shutdown(Drain::default());
        assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Discarded, 0), "{report}");
        let stats = report.stats;
        assert_eq!(stats.discarded, stats.received, "{}, {turns} turns: {report}", shape.name);
        let all_seen = stats.discarded == DATAGRAMS;
        assert_eq!(stats.abandoned, u64::from(!all_seen), "{}: {report}", shape.name);
    }
}

/// Delivered, thrown away with its socket, handed over with its socket, or left at the deadline.
fn the_report_accounts_for_every_datagram(shape: Shape) {
    let runtime = shape.runtime();
    let (delivered, handed_over) = runtime.block_on(async {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        let send = async |count| {
            for _ in 0..count {
                sender.send(b"counted").await.unwrap();
            }
        };
        send(5).await;
        for _ in 0..5 {
            receiver.recv().await.unwrap();
        }
        let dropped = UdpSocket::bind("127.0.0.1:0").unwrap();
        dropped.send_to(b"for nobody", dropped.local_addr().unwrap()).await.unwrap();
        while dropped.stats().received == 0 {
            yield_now().await;
        }
        drop(dropped);

        send(DATAGRAMS).await;
        yield_now().await;
        let (socket, taken) = receiver.into_std().unwrap();
        let left = UnixDatagram::from_std(socket).unwrap();
        ebbtide::spawn(async move {
            let _left = left;
            std::future::pending::<()>().await;
        });
        (5, taken.len() as u64)
    });
    let report = runtime.stop();
    let stats = report.stats;
    assert_eq!((stats.delivered, stats.discarded), (delivered, 1), "{}: {report}", shape.name);
    assert_eq!(stats.handed_over, handed_over, "{}: {report}", shape.name);
    assert_eq!(report.undelivered, DATAGRAMS - handed_over, "{}: {report}", shape.name);
    assert_balanced(&report);
}

/// Fails when a receive is not armed again after an empty datagram, which ends it in the kernel, or
/// after a full completion queue: the socket is then deaf.
fn a_socket_goes_on_receiving_after_every_end_of_its_receive(shape: Shape) {
    fn check<T: Transport>(shape: Shape) {
        shape.runtime().block_on(async {
            let mut queue = Queue::<T>::open(0);
            let mut ledger = Ledger::default();
            for _ in 0..20 {
                queue.sender.send(&[]).unwrap();
                queue.grow(20);
                let mut kept = Vec::new();
                let mut empty = 0;
                while empty == 0 || ledger.received < queue.sent {
                    match arrival(&queue.receiver).await {
                        Some(datagram) if datagram.is_empty() => empty += 1,
                        Some(datagram) => {
                            ledger.enter(&datagram);
                            kept.push(datagram);
                        }
                        None if kept.is_empty() => panic!("deaf: {:?}", queue.receiver.stats()),
                        // The pool is empty: the buffers go back.
                        None => kept.clear(),
                    }
                }
                assert_eq!((empty, ledger.holes), (1, 0), "{}", shape.name);
            }
        });
    }

    check::<UnixAddr>(shape);
    check::<SocketAddr>(shape);
}

/// Fails when `shutdown` returns while a receive still holds its socket: when neither the drain,
/// nor dropping the socket, nor the end of the runtime cancels it.
fn an_address_can_be_bound_again_after_a_shutdown(shape: Shape) {
    let name = unique_name("again");
    let mut address = lonely_address();
    for round in 0..1_000 {
        let runtime = shape.runtime();
        runtime.block_on(async {
            let udp = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{round}: {error}"));
            let unix =
                UnixDatagram::bind_addr(&name).unwrap_or_else(|error| panic!("{round}: {error}"));
            address = udp.local_addr().unwrap();
            udp.send_to(b"udp", address).await.unwrap();
            assert_eq!(&udp.recv().await.unwrap().expect("not drained")[..], b"udp");
            UnixDatagram::unbound().unwrap().send_to_addr(b"unix", &name).await.unwrap();
            assert_eq!(&unix.recv().await.unwrap().expect("not drained")[..], b"unix");
            // They are still open, and their receives in flight, when the runtime ends.
            ebbtide::spawn(async move {
                let _open = (udp, unix);
                std::future::pending::<()>().await;
            });
        });
        runtime.shutdown(Drain::default());
    }
}

/// Fails when dropping a socket leaves its receive in flight, which keeps the address.
fn an_address_can_be_bound_again_after_its_socket_was_dropped(shape: Shape) {
    let name = unique_name("at-once");
    let mut address = lonely_address();
    let runtime = shape.runtime();
    runtime.block_on(async {
        for round in 0..1_000 {
            let udp = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{round}: {error}"));
            let unix =
                UnixDatagram::bind_addr(&name).unwrap_or_else(|error| panic!("{round}: {error}"));
            address = udp.local_addr().unwrap();
            if round % 2 == 0 {
                yield_now().await; // So that the receives are in flight.
            }
            drop((udp, unix));
        }
    });
}

/// Fails when the end of the runtime does not vacate the descriptor: the address is then taken.
fn a_socket_that_outlives_its_runtime_is_closed_but_harmless(shape: Shape) {
    let runtime = shape.runtime();
    let (udp, address) = runtime.block_on(async {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        udp.send_to(b"nobody takes it", address).await.unwrap();
        (udp, address)
    });
    let report = runtime.shutdown(Drain::default().deadline(std::time::Duration::ZERO));
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::DeadlinePassed, 1), "{report}");
    let other = std::net::UdpSocket::bind(address).expect("the address is free");

    assert!(udp.recv().now_or_never().expect("it has ended").unwrap().is_none());
    assert!(udp.try_recv().unwrap().is_none());
    udp.drain().unwrap();
    let refusals = [
        udp.try_send_to(b"late", address).unwrap_err(),
        udp.send_to(b"late", address).now_or_never().expect("it has ended").unwrap_err(),
        udp.writable().now_or_never().expect("it has ended").unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.kind(), io::ErrorKind::NotConnected);
        assert!(refusal.to_string().contains("runtime of this socket has ended"), "{refusal}");
    }
    let stats = udp.stats();
    assert_eq!((stats.received, stats.delivered, stats.discarded), (1, 0, 1), "{}", shape.name);

    drop(udp);
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"for the new owner", address).unwrap();
    assert_eq!(other.recv(&mut [0; 64]).unwrap(), 17, "dropping it late has closed a stranger");
}

/// Fails when the budget of a poll, which only a runtime refills, is asked for outside of one.
fn a_socket_that_outlives_its_runtime_can_be_polled_any_number_of_times(shape: Shape) {
    let runtime = shape.runtime();
    let udp = runtime.block_on(async { UdpSocket::bind("127.0.0.1:0").unwrap() });
    runtime.shutdown(Drain::default());
    for poll in 0..1_000 {
        let polled = udp.recv().now_or_never();
        let received = polled.unwrap_or_else(|| panic!("poll {poll} is pending, for ever"));
        assert!(received.unwrap().is_none());
    }
}

fn every_method_of_a_socket_that_outlives_its_runtime_says_why_it_fails(shape: Shape) {
    let runtime = shape.runtime();
    let udp = runtime.block_on(async { UdpSocket::bind("127.0.0.1:0").unwrap() });
    let address = udp.local_addr().unwrap();
    runtime.shutdown(Drain::default());
    let refusals = [
        udp.try_send_to(b"late", address).unwrap_err(),
        udp.connect(address).unwrap_err(),
        udp.local_addr().unwrap_err(),
        udp.recv_buffer_size().unwrap_err(),
        udp.into_std().unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.kind(), io::ErrorKind::NotConnected, "{refusal}");
    }
}

/// The next datagram, if it comes within many turns.
async fn arrival<A: Address>(socket: &DatagramSocket<A>) -> Option<Datagram<A>> {
    for _ in 0..100 {
        match socket.try_recv() {
            Ok(datagram) => return datagram,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        yield_now().await;
    }
    None
}

/// On a host of its own within the loopback net, so that no other test can be given its port.
fn lonely_address() -> SocketAddr {
    static HOSTS: AtomicU8 = AtomicU8::new(2);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    SocketAddr::from(([127, high | 1, low, HOSTS.fetch_add(1, Ordering::Relaxed)], 0))
}

/// A socket, its backlog, and what became of it.
struct Queue<T> {
    /// Who sends, as in [`numbered`].
    id: u32,
    sender: Socket,
    receiver: Rc<DatagramSocket<T>>,
    /// Another descriptor of the receiver's socket.
    watch: Socket,
    /// Datagrams that the kernel took from the sender.
    sent: u64,
    delivered: Rc<RefCell<Delivered>>,
}

#[derive(Default)]
struct Delivered {
    ledger: Ledger,
    /// True exactly when the receiver was handed `None`.
    has_ended: bool,
}

/// A [`Queue`] of either transport.
trait Backlog {
    /// Sends up to `count` datagrams, as many as there is room for.
    fn grow(&mut self, count: usize);

    fn spawn_receiver(&self);

    /// What was queued was delivered, in order, once, and nothing is left.
    fn check(&self, seed: u64);
}

impl<T: Transport> Queue<T> {
    fn open(id: u32) -> Self {
        let (sender, receiver) = T::pair();
        sender.set_nonblocking(true).unwrap();
        let watch = duplicate(&receiver);
        let receiver = Rc::new(T::open(receiver));
        Self { id, sender, receiver, watch, sent: 0, delivered: Rc::default() }
    }

    /// Receives from a drained socket, where nothing has to be waited for.
    fn take_all(&self) {
        let mut delivered = self.delivered.borrow_mut();
        while let Some(datagram) = self.receiver.try_recv().unwrap() {
            delivered.ledger.enter(&datagram);
        }
        delivered.has_ended = true;
    }
}

impl<T: Transport> Backlog for Queue<T> {
    fn grow(&mut self, count: usize) {
        for _ in 0..count {
            let len = 12 + self.sent as usize % 50;
            match self.sender.send(&numbered(self.id, self.sent, len)) {
                Ok(_) => self.sent += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn spawn_receiver(&self) {
        ebbtide::spawn(receive(Rc::clone(&self.receiver), Rc::clone(&self.delivered)));
    }

    fn check(&self, seed: u64) {
        let Delivered { ledger, has_ended } = &*self.delivered.borrow();
        let stats = self.receiver.stats();
        let run = format!("seed {seed}, {} sent, {ledger:?}, {stats:?}", self.sent);
        assert_eq!(ledger.received + stats.dropped_by_kernel, self.sent, "{run}");
        assert!(ledger.holes <= stats.dropped_by_kernel, "{run}");
        assert!(T::MAY_DROP || stats.dropped_by_kernel == 0, "{run}");
        assert!(has_ended, "the receiver was not told that it has everything; {run}");
        assert_eq!(left_in_queue(&self.watch), 0, "{run}");
    }
}

async fn receive<A: Address>(socket: Rc<DatagramSocket<A>>, delivered: Rc<RefCell<Delivered>>) {
    while let Some(datagram) = socket.recv().await.unwrap() {
        delivered.borrow_mut().ledger.enter(&datagram);
    }
    delivered.borrow_mut().has_ended = true;
}

fn assert_balanced(report: &DrainReport) {
    let stats = report.stats;
    let accounted = stats.delivered + stats.discarded + stats.handed_over + report.undelivered;
    assert_eq!(stats.received, accounted, "{report}");
}

/// It was complete, and its counts balance.
fn assert_complete(report: &DrainReport) {
    assert_balanced(report);
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Complete, 0), "{report}");
    assert_eq!((report.unsealed, report.completions_lost, report.unfinished), (0, 0, 0));
}
