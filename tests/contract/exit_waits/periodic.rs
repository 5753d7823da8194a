//! Periodic work does not hold up the exit, except for one tick of a task that has work.

use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide::time::{interval, sleep, timeout};
use ebbtide::{DrainOutcome, spawn, spawn_blocking};
use ebbtide_testkit::{Shape, on_every_shape, patient};

use super::work::{add, all_is_handled, elsewhere};
use crate::queued::{send, socket_with};

on_every_shape!(
    a_socket_that_only_sends_is_not_waited_for_beside_a_periodic_task,
    a_receiver_that_has_ended_is_not_waited_for_beside_a_periodic_task,
    what_came_to_a_receiver_that_has_ended_is_reported_beside_a_periodic_task,
    timeouts_are_not_waited_for,
    nothing_is_waited_for_where_nothing_happens,
    tasks_that_are_always_ready_do_not_hold_up_the_exit,
    what_only_ticks_is_no_work,
    what_ticks_is_waited_for_once,
    a_flush_at_a_tick_is_waited_for_to_its_end,
    a_client_that_waits_for_its_next_tick_is_not_waited_for,
    a_heartbeat_that_was_spawned_for_a_datagram_is_no_work,
);

const COUNT: usize = 20;

/// Spawns tasks that tick for ever, and waits for their first ticks.
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

/// Fails when a pending timer alone makes the exit wait until the deadline.
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

/// Fails when the runtime does not know which task was the receiver.
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

/// The datagrams came after the receiver had ended. They are reported, because there was a receiver
/// once.
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
            // The drain wakes the task, which has no work.
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

/// Fails when the exit checks whether work is left only when no task is ready.
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

/// Fails when a task counts as working because it is polled for more than its timer.
fn what_only_ticks_is_no_work(shape: Shape) {
    all_is_handled(shape, 3, async |handled| {
        spawn(async {
            loop {
                sleep(Duration::from_millis(2)).await;
                yield_now().await;
            }
        });
        spawn(async {
            loop {
                sleep(Duration::from_millis(2)).await;
                elsewhere(Duration::ZERO).await;
                // Its task also ends while datagrams are queued.
                spawn_blocking(|| ()).await.unwrap();
            }
        });
        sleep(Duration::from_millis(5)).await;
        let socket = socket_with(3);
        spawn(async move {
            while socket.recv().await.unwrap().is_some() {
                elsewhere(Duration::from_millis(5)).await;
                add(&handled);
            }
        });
    });
}

/// A writer flushes, at each tick, what the receiver has left for it. Nobody wakes it.
fn what_ticks_is_waited_for_once(shape: Shape) {
    for sleeps in [true, false] {
        all_is_handled(shape, COUNT, async |handled| {
            let written = Rc::new(RefCell::new(Vec::new()));
            let to_write = Rc::clone(&written);
            spawn(async move {
                let mut ticks = interval(Duration::from_millis(50));
                ticks.tick().await;
                loop {
                    match sleeps {
                        true => sleep(Duration::from_millis(50)).await,
                        false => drop(ticks.tick().await),
                    }
                    to_write.borrow_mut().drain(..).for_each(|_: u8| add(&handled));
                }
            });
            yield_now().await;
            yield_now().await;
            let socket = socket_with(COUNT);
            spawn(async move {
                while let Some(datagram) = socket.recv().await.unwrap() {
                    written.borrow_mut().push(datagram[0]);
                }
            });
        });
    }
}

/// Fails when a task that ticks is forgotten as soon as its tick has come.
fn a_flush_at_a_tick_is_waited_for_to_its_end(shape: Shape) {
    for spawns in [true, false] {
        all_is_handled(shape, COUNT, async |handled| {
            let written = Rc::new(RefCell::new(Vec::<u8>::new()));
            let to_write = Rc::clone(&written);
            spawn(async move {
                let mut ticks = interval(Duration::from_millis(30));
                loop {
                    ticks.tick().await;
                    let (batch, handled) = (to_write.take(), Rc::clone(&handled));
                    if batch.is_empty() {
                        continue;
                    }
                    let write = async move {
                        elsewhere(Duration::from_millis(20)).await;
                        batch.into_iter().for_each(|_| add(&handled));
                    };
                    match spawns {
                        true => drop(spawn(write)),
                        false => write.await,
                    }
                }
            });
            sleep(Duration::from_millis(5)).await;
            let socket = socket_with(COUNT);
            spawn(async move {
                while let Some(datagram) = socket.recv().await.unwrap() {
                    written.borrow_mut().push(datagram[0]);
                }
            });
        });
    }
}

/// The client has asked for the time, and asks again in an hour. Fails when it is expected.
fn a_client_that_waits_for_its_next_tick_is_not_waited_for(shape: Shape) {
    all_is_handled(shape, 1, async |handled| {
        let socket = socket_with(1);
        let asked = Rc::clone(&handled);
        spawn(async move {
            let mut ticks = interval(Duration::from_secs(3_600));
            loop {
                ticks.tick().await;
                drop(socket.recv().await.unwrap());
                add(&asked);
            }
        });
        while handled.get() == 0 {
            yield_now().await;
        }
    });
}

/// The main task registers, spawns its heartbeat for the acknowledgement, and serves. Fails when a
/// heartbeat counts as work that was cut off.
fn a_heartbeat_that_was_spawned_for_a_datagram_is_no_work(shape: Shape) {
    let report = all_is_handled(shape, 3, async |handled| {
        let socket = socket_with(3);
        while handled.get() < 3 {
            let datagram = socket.recv().await.unwrap().unwrap();
            add(&handled);
            if datagram[0] == 0 {
                spawn(async {
                    let mut ticks = interval(Duration::from_millis(20));
                    loop {
                        ticks.tick().await;
                    }
                });
            }
        }
        sleep(Duration::from_millis(1)).await;
    });
    assert_eq!((report.tasks_at_work, report.tasks_dropped), (0, 1), "{report}");
}
