//! What goes on for ever does not hold the exit up.

use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide::time::{interval, sleep, timeout};
use ebbtide::{DrainOutcome, spawn};

use crate::support::Shape;
use crate::{patient, send, socket_with};

on_every_shape!(
    a_socket_that_only_sends_is_not_waited_for_beside_a_periodic_task,
    a_receiver_that_has_ended_is_not_waited_for_beside_a_periodic_task,
    what_came_to_a_receiver_that_has_ended_is_reported_beside_a_periodic_task,
    timeouts_are_not_waited_for,
    nothing_is_waited_for_where_nothing_happens,
    tasks_that_are_always_ready_do_not_hold_up_the_exit,
);

/// Tasks that tick for ever, and wait for their first ticks.
async fn ticks() {
    spawn(async {
        let mut ticks = interval(Duration::from_millis(5));
        loop {
            ticks.tick().await;
        }
    });
    spawn(async {
        loop {
            sleep(Duration::from_millis(5)).await;
        }
    });
    yield_now().await;
    yield_now().await;
}

/// Fails when a pending timer is all that it takes to wait to the deadline.
fn a_socket_that_only_sends_is_not_waited_for_beside_a_periodic_task(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = socket_with(1);
        ticks().await;
        spawn(async move {
            loop {
                let _ = socket.send_to(b"metric", "127.0.0.1:9").await;
                sleep(Duration::from_millis(5)).await;
            }
        });
        sleep(Duration::from_millis(1)).await;
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Unclaimed, 1), "{report}");
    assert!(report.into_result().is_ok(), "{report}");
}

/// Fails when it is not known whose receiver it was.
fn a_receiver_that_has_ended_is_not_waited_for_beside_a_periodic_task(shape: Shape) {
    let runtime = shape.runtime();
    let _kept = runtime.block_on(async {
        ticks().await;
        let socket = Rc::new(socket_with(1));
        let receiver = Rc::clone(&socket);
        spawn(async move {
            receiver.recv().await.unwrap();
        });
        socket
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.stats.delivered), (DrainOutcome::Complete, 1), "{report}");
}

/// The datagrams came after it, and there was a receiver for them once.
fn what_came_to_a_receiver_that_has_ended_is_reported_beside_a_periodic_task(shape: Shape) {
    let runtime = shape.runtime();
    let _kept = runtime.block_on(async {
        ticks().await;
        let socket = Rc::new(socket_with(1));
        let receiver = Rc::clone(&socket);
        spawn(async move { receiver.recv().await.unwrap().is_some() }).await.unwrap();
        send(3, socket.local_addr().unwrap());
        socket
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::ReceiversGone, 3), "{report}");
    assert!(report.into_result().is_err());
}

/// Fails when a timeout counts as a sleep after which its task goes on.
fn timeouts_are_not_waited_for(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = socket_with(5);
        spawn(async move {
            // Woken by the drain, and at work on nothing.
            while socket.recv().await.unwrap().is_some() {}
            let _ = timeout(Duration::from_secs(3_600), pending::<()>()).await;
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.tasks_at_work), (DrainOutcome::Complete, 0), "{report}");
    assert_eq!((report.stats.delivered, report.tasks_dropped), (5, 1), "{report}");
}

fn nothing_is_waited_for_where_nothing_happens(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        ticks().await;
        spawn(sleep(Duration::from_secs(3_600)));
        yield_now().await;
        yield_now().await;
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.tasks_at_work), (DrainOutcome::Complete, 0), "{report}");
}

/// Fails when the exit looks whether anything is left to do only when no task is ready.
fn tasks_that_are_always_ready_do_not_hold_up_the_exit(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        spawn(async {
            loop {
                yield_now().await;
            }
        });
        spawn(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            loop {
                let _ = socket.send_to(b"load", "127.0.0.1:9").await;
            }
        });
        let socket = socket_with(3);
        spawn(async move { while socket.recv().await.unwrap().is_some() {} });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.stats.delivered), (DrainOutcome::Complete, 3), "{report}");
}
