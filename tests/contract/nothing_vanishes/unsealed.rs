//! Sockets that the kernel refuses to seal, because their filter is locked. What is queued at the
//! drain is delivered. For what comes later, the report says that there was some.

use std::io;
use std::net::UdpSocket as Plain;
use std::rc::Rc;

use ebbtide::net::UdpSocket;
use ebbtide::{Drain, DrainOutcome, drain};
use ebbtide_testkit::socket::{attach_program_that_empties, switch_on};
use ebbtide_testkit::{Ledger, Shape, numbered, on_every_shape};

on_every_shape!(
    what_is_queued_at_the_drain_is_delivered_without_a_seal,
    what_comes_after_the_end_is_read_by_the_next_drain,
    what_comes_after_the_end_is_told_when_the_socket_is_dropped,
    what_comes_after_the_end_is_told_when_the_runtime_ends,
    receivers_that_were_told_the_end_are_not_waited_for,
    a_bpf_program_is_never_replaced,
);

/// A socket that cannot be sealed, and one that sends to it.
struct Pair {
    receiver: UdpSocket,
    sender: Plain,
    sent: u64,
    ledger: Ledger,
}

impl Pair {
    fn new() -> Self {
        let receiver = Plain::bind("127.0.0.1:0").unwrap();
        let sender = Plain::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        switch_on(&receiver, libc::SOL_SOCKET, libc::SO_LOCK_FILTER);
        let receiver = UdpSocket::from_std(receiver).unwrap();
        Self { receiver, sender, sent: 0, ledger: Ledger::default() }
    }

    fn send(&mut self, count: u64) {
        for _ in 0..count {
            self.sender.send(&numbered(0, self.sent, 20)).unwrap();
            self.sent += 1;
        }
    }

    fn drain(&self) {
        let error = self.receiver.drain().expect_err("the socket cannot be sealed");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    }

    async fn receive_to_the_end(&mut self) {
        while let Some(datagram) = self.receiver.recv().await.unwrap() {
            self.ledger.enter(&datagram);
        }
    }
}

fn what_is_queued_at_the_drain_is_delivered_without_a_seal(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let mut pair = Pair::new();
        pair.send(100);
        let receiver = ebbtide::spawn(async move {
            pair.receive_to_the_end().await;
            assert_eq!(pair.ledger.received, 100);
        });
        let report = drain().await;
        assert_eq!((report.outcome, report.unsealed), (DrainOutcome::Complete, 1), "{report}");
        assert_eq!((report.unread, report.stats.abandoned), (0, 0), "{report}");
        receiver.await.unwrap();
    });
}

/// Fails when the end of a queue without a seal counts as the final end.
fn what_comes_after_the_end_is_read_by_the_next_drain(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let mut pair = Pair::new();
        for _drain in 0..3 {
            pair.send(100);
            pair.drain();
            pair.receive_to_the_end().await;
            assert_eq!(pair.ledger.received, pair.sent);
        }
    });
    let report = runtime.shutdown(Drain::default());
    assert_eq!((report.stats.delivered, report.stats.abandoned), (300, 0), "{report}");
}

fn what_comes_after_the_end_is_told_when_the_socket_is_dropped(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let mut pair = Pair::new();
        pair.drain();
        pair.send(1);
        pair.receive_to_the_end().await;
    });
    let report = runtime.shutdown(Drain::default());
    assert_eq!((report.stats.received, report.stats.abandoned), (0, 1), "{report}");
}

/// Fails when the queue is not checked at the end, or when the report is made before that check.
fn what_comes_after_the_end_is_told_when_the_runtime_ends(shape: Shape) {
    let runtime = shape.runtime();
    let mut pair = runtime.block_on(async { Pair::new() });
    // The task is dropped after the drain, and its destructor sends once more.
    struct SendWhenDropped(Plain);
    impl Drop for SendWhenDropped {
        fn drop(&mut self) {
            self.0.send(b"late").unwrap();
        }
    }
    let late = SendWhenDropped(pair.sender.try_clone().unwrap());
    runtime.block_on(async {
        ebbtide::spawn(async move {
            let _late = late;
            std::future::pending::<()>().await;
        });
    });
    pair.send(1);
    let socket = Rc::new(pair.receiver);
    let receiver = Rc::clone(&socket);
    runtime.block_on(async {
        ebbtide::spawn(async move { while receiver.recv().await.unwrap().is_some() {} });
    });
    let report = runtime.shutdown(Drain::default());
    assert_eq!((report.outcome, report.unsealed), (DrainOutcome::Discarded, 1), "{report}");
    assert_eq!((report.stats.delivered, report.stats.abandoned), (1, 1), "{report}");
}

/// Nobody receives what the second drain reads. Fails when the exit waits for a receiver until the
/// deadline.
fn receivers_that_were_told_the_end_are_not_waited_for(shape: Shape) {
    let runtime = shape.runtime();
    let pair = runtime.block_on(async {
        let mut pair = Pair::new();
        pair.drain();
        pair.receive_to_the_end().await;
        pair.send(5);
        pair
    });
    let report = runtime.shutdown(Drain::default());
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Unclaimed, 5), "{report}");
    assert_eq!(report.stats.abandoned, 0, "{report}");
    drop(pair);
}

/// The kernel does not return a BPF program, so it could not be attached again. Fails when the seal
/// replaces it.
fn a_bpf_program_is_never_replaced(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let receiver = Plain::bind("127.0.0.1:0").unwrap();
        let sender = Plain::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        if let Err(error) = attach_program_that_empties(&receiver) {
            return println!("skipped: no BPF program: {error}");
        }
        let receiver = UdpSocket::from_std(receiver).unwrap();
        sender.send(b"queued").unwrap();
        let error = receiver.drain().expect_err("the socket cannot be sealed");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        assert_eq!(receiver.recv().await.unwrap().expect("the datagram was queued").len(), 0);
        assert!(receiver.recv().await.unwrap().is_none());
        let (plain, _) = receiver.into_std().unwrap();
        sender.send(b"afterwards").unwrap();
        assert_eq!(plain.recv(&mut [0; 64]).unwrap(), 0);
    });
}
