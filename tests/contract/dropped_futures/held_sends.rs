//! Sends. Each leaves or waits independently.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::{UdpSocket, UnixAddr, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome, drain, drain_with};
use ebbtide_testkit::{Ledger, Shape, numbered, on_every_shape, unique_name};
use futures_util::FutureExt;

on_every_shape!(
    coalesced_sends_leave_beside_one_that_is_held,
    coalesced_sends_leave_beside_one_that_is_forgotten,
    a_coalesced_send_that_is_held_has_its_result_later,
    a_drain_does_not_wait_for_a_coalesced_send_that_is_held,
    a_send_finds_space_beside_one_that_is_held,
    a_drain_does_not_wait_for_a_send_that_is_held,
    a_drain_waits_for_a_send_that_is_held_until_a_timer,
    a_coalesced_send_ends_with_the_runtime_of_its_socket,
);

/// A socket with coalescing, and one that it sends to.
fn coalescing() -> (Rc<UdpSocket>, UdpSocket) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    sender.set_coalescing(true);
    (Rc::new(sender), receiver)
}

async fn send(sender: Rc<UdpSocket>, number: u64) -> usize {
    sender.send(&numbered(0, number, 12)).await.unwrap()
}

/// Hangs when the others leave only after the future that was polled first is polled again.
fn coalesced_sends_leave_beside_one_that_is_held(shape: Shape) {
    shape.runtime().block_on(async {
        let (sender, receiver) = coalescing();
        let payload = numbered(0, 0, 12);
        let mut held = sender.send(&payload);
        assert!((&mut held).now_or_never().is_none());
        let sends: Vec<_> =
            (1..10).map(|number| ebbtide::spawn(send(Rc::clone(&sender), number))).collect();
        for send in sends {
            assert_eq!(send.await.unwrap(), 12);
        }
        let mut ledger = Ledger::default();
        for _ in 0..10 {
            ledger.enter(&receiver.recv().await.unwrap().expect("not drained"));
        }
        assert_eq!(ledger.holes, 0);
        assert_eq!(held.await.unwrap(), 12, "it was sent with the others");
    });
}

/// Hangs when the others need a poll of the forgotten future, or when later sends wait for its
/// result to be taken.
fn coalesced_sends_leave_beside_one_that_is_forgotten(shape: Shape) {
    shape.runtime().block_on(async {
        let (sender, receiver) = coalescing();
        let payload = numbered(0, 0, 12);
        let mut forgotten = Box::pin(sender.send(&payload));
        assert!((&mut forgotten).now_or_never().is_none());
        std::mem::forget(forgotten);
        let mut ledger = Ledger::default();
        for number in 1..=100 {
            assert_eq!(send(Rc::clone(&sender), number).await, 12);
        }
        for _ in 0..=100 {
            ledger.enter(&receiver.recv().await.unwrap().expect("not drained"));
        }
        assert_eq!(ledger.holes, 0);
    });
}

fn a_coalesced_send_that_is_held_has_its_result_later(shape: Shape) {
    shape.runtime().block_on(async {
        let (sender, receiver) = coalescing();
        let payload = numbered(0, 0, 12);
        let mut held = sender.send(&payload);
        assert!((&mut held).now_or_never().is_none());
        receiver.recv().await.unwrap().expect("not drained");
        assert_eq!(held.now_or_never().expect("the send has left").unwrap(), 12);
    });
}

/// Fails when the drain ends at its deadline, or when the datagram is not sent.
fn a_drain_does_not_wait_for_a_coalesced_send_that_is_held(shape: Shape) {
    shape.runtime().block_on(async {
        let (sender, receiver) = coalescing();
        let outside = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(outside.local_addr().unwrap()).unwrap();
        let payload = numbered(0, 0, 12);
        let mut held = sender.send(&payload);
        assert!((&mut held).now_or_never().is_none());
        let report = drain().await;
        assert_eq!(report.outcome, DrainOutcome::Complete, "{report}");
        assert_eq!(outside.recv(&mut [0; 100]).unwrap(), 12);
        drop(receiver);
    });
}

/// A socket outside of the runtime with a full queue.
struct Full {
    receiver: std::os::unix::net::UnixDatagram,
    name: UnixAddr,
    /// How many datagrams are queued.
    queued: usize,
}

impl Full {
    fn new() -> Self {
        let name = unique_name("full");
        let receiver = std::os::unix::net::UnixDatagram::bind_addr(&name).unwrap();
        receiver.set_nonblocking(true).unwrap();
        let filler = std::os::unix::net::UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        let mut queued = 0;
        while filler.send_to_addr(b"fills", &name).is_ok() {
            queued += 1;
        }
        Self { receiver, name, queued }
    }

    /// Takes what was queued at first.
    fn empty(&self) {
        for _ in 0..self.queued {
            assert_eq!(self.receiver.recv(&mut [0; 100]).unwrap(), 5);
        }
    }
}

/// Two sends wait for space in the queue of a peer, and one of them is not polled. Hangs when only
/// that one is woken.
fn a_send_finds_space_beside_one_that_is_held(shape: Shape) {
    shape.runtime().block_on(async {
        for is_connected in [true, false] {
            let full = Full::new();
            let sender = Rc::new(UnixDatagram::unbound().unwrap());
            if is_connected {
                sender.connect_addr(&full.name).unwrap();
            }
            let mut held = sender.send_to_addr(b"held", &full.name);
            assert!((&mut held).now_or_never().is_none());
            let next = ebbtide::spawn({
                let (sender, name) = (Rc::clone(&sender), full.name.clone());
                async move { sender.send_to_addr(b"polled", &name).await }
            });
            yield_now().await;
            assert!(!next.is_finished(), "the queue is full");
            full.empty();
            assert_eq!(next.await.unwrap().unwrap(), 6);
            assert_eq!(held.await.unwrap(), 4);
        }
    });
}

/// Hangs when a send that has found space, and is not polled, holds up the drain until its
/// deadline.
fn a_drain_does_not_wait_for_a_send_that_is_held(shape: Shape) {
    shape.runtime().block_on(async {
        let full = Full::new();
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect_addr(&full.name).unwrap();
        let mut held = sender.send(b"held");
        let mut writable = sender.writable();
        assert!((&mut held).now_or_never().is_none());
        assert!((&mut writable).now_or_never().is_none());
        full.empty();
        // A deadline that no test reaches.
        let patient = Drain::default().deadline(Duration::from_secs(3_600));
        let report = drain_with(patient).await;
        assert_eq!(report.outcome, DrainOutcome::Complete, "{report}");
        assert_eq!(report.unfinished, 2, "{report}");
        assert_eq!(held.await.unwrap(), 4);
        writable.await.unwrap();
    });
}

/// A task that holds a send while it waits for a timer polls the send later. Fails when the drain
/// does not wait for that.
fn a_drain_waits_for_a_send_that_is_held_until_a_timer(shape: Shape) {
    shape.runtime().block_on(async {
        let full = Full::new();
        let name = full.name.clone();
        let sending = ebbtide::spawn(async move {
            let sender = UnixDatagram::unbound().unwrap();
            let mut held = sender.send_to_addr(b"held", &name);
            assert!((&mut held).now_or_never().is_none());
            sleep(Duration::from_millis(100)).await;
            held.await.unwrap()
        });
        yield_now().await;
        full.empty();
        let report = drain().await;
        assert_eq!((report.outcome, report.unfinished), (DrainOutcome::Complete, 0), "{report}");
        assert!(sending.is_finished(), "the drain waits for the timer of its task");
        assert_eq!(full.receiver.recv(&mut [0; 100]).unwrap(), 4);
    });
}

/// The future of a send is polled by another runtime of the thread. Hangs when it is not woken.
fn a_coalesced_send_ends_with_the_runtime_of_its_socket(shape: Shape) {
    let own = shape.runtime();
    let (sender, _receiver) = own.block_on(async { coalescing() });
    shape.runtime().block_on(async move {
        let waiting = ebbtide::spawn(async move { sender.send(b"waits").await });
        yield_now().await;
        assert!(!waiting.is_finished());
        own.stop();
        let error = waiting.await.unwrap().expect_err("its runtime has ended");
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    });
}
