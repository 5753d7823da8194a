//! What was queued when the drain began is delivered before it ends, however the runtime ends.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::{Datagram, UnixAddr, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome, drain, drain_with};
use ebbtide_testkit::report::assert_complete;
use ebbtide_testkit::socket::left_in_queue;
use ebbtide_testkit::{Ledger, Shape, Transport, on_every_shape};

use crate::backlog::{Backlog, DATAGRAMS, Queue, arrival};

on_every_shape!(
    a_drained_socket_hands_out_its_backlog_and_then_none_while_others_go_on,
    draining_twice_delivers_what_came_in_between,
    dropping_the_runtime_drains_it,
    a_panic_that_unwinds_through_the_runtime_drains_it,
    a_receiver_that_keeps_every_datagram_gets_them_all,
    every_receiver_of_a_socket_sees_the_end,
    a_drain_lasts_until_the_last_datagram_was_handled,
    a_drain_waits_for_a_receiver_only_while_one_may_still_come,
);

/// Fails when the drain of one socket does not cancel, reap, and read until `EAGAIN`. Also fails
/// when a receive that found the pool empty, because the other socket held all of it, is not armed
/// again.
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
                ledger.enter(&arrival(&other.receiver).await.expect("the socket receives"));
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
    kept.take().expect("the queue was kept before the panic").check(0);
}

/// Fails when the drain reads only into the pool, which is empty.
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

/// Fails when the drain wakes only one of the receivers that wait, because the task of another is
/// then dropped.
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
        // All wait before anything arrives. The datagram wakes one of them.
        yield_now().await;
        queue.grow(1);
    });
    let report = runtime.shutdown(Drain::default());
    assert_complete(&report);
    assert_eq!((delivered.get(), ended.get()), (1, 3), "{}", shape.name);
    assert_eq!(report.tasks_dropped, 0, "{report}");
}

/// Fails when the drain ends before a receiver that got a datagram comes back for the end.
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

/// A timer may lead to a receiver. Without a timer there is none to wait for. Fails when the drain
/// never waits for a socket that nobody has received from, or always.
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
