//! Receivers that got a datagram and have not come back for the next one, or for the end.

use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide::time::{interval, sleep, timeout};
use ebbtide::{DrainOutcome, Runtime, drain_with, spawn};
use ebbtide_testkit::{Shape, on_every_shape, patient};
use futures_util::future::{join, select};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::work::{Count, LONG, Wait, add, all_is_handled, elsewhere};
use crate::queued::{send, socket_with};

on_every_shape!(
    what_main_sets_up_is_no_work,
    one_of_several_receivers_that_is_away_is_waited_for,
    a_future_beside_others_that_is_away_is_waited_for,
    handlers_in_the_task_of_their_receiver_are_waited_for,
    a_receiver_that_does_other_things_since_is_not_waited_for,
    a_receiver_that_has_given_up_is_not_waited_for_to_the_deadline,
    a_receiver_that_does_not_wait_just_now_is_waited_for_a_moment,
    a_server_that_is_joined_with_its_drain_is_served,
    a_task_that_awaits_a_task_that_drains_is_told_so,
    a_receiver_that_waits_many_times_for_each_datagram_is_waited_for,
    what_follows_the_end_step_by_step_is_waited_for,
);

const COUNT: usize = 20;

/// The main task received its configuration, and spawns the tasks of the program. Fails when these
/// count as work.
fn what_main_sets_up_is_no_work(shape: Shape) {
    let report = all_is_handled(shape, 1, async |handled| {
        let socket = socket_with(1);
        let _configuration = socket.recv().await.unwrap().map(|datagram| datagram.to_vec());
        add(&handled);
        spawn(async move {
            pending::<()>().await;
            drop(socket);
        });
    });
    assert_eq!(report.tasks_dropped, 1, "{report}");
}

/// Fails when the receivers that wait hide the one that does not.
fn one_of_several_receivers_that_is_away_is_waited_for(shape: Shape) {
    all_is_handled(shape, 4, async |handled| {
        let socket = Rc::new(socket_with(4));
        for _ in 0..2 {
            let (socket, handled) = (Rc::clone(&socket), Rc::clone(&handled));
            spawn(async move {
                while let Some(datagram) = socket.recv().await.unwrap() {
                    let first = datagram[0] == 0;
                    drop(datagram);
                    match first {
                        true => elsewhere(LONG).await,
                        false => yield_now().await,
                    }
                    add(&handled);
                }
            });
        }
    });
}

/// Fails when the futures of one task count as one receiver.
fn a_future_beside_others_that_is_away_is_waited_for(shape: Shape) {
    all_is_handled(shape, 8, async |handled| {
        let socket = Rc::new(socket_with(8));
        spawn(async move {
            let mut receivers: FuturesUnordered<_> = (0..4)
                .map(async |_| {
                    while let Some(datagram) = socket.recv().await.unwrap() {
                        let number = datagram[0];
                        drop(datagram);
                        if number < 3 {
                            elsewhere(LONG).await;
                        }
                        add(&handled);
                    }
                })
                .collect();
            while receivers.next().await.is_some() {}
        });
    });
}

/// The task gets the end while handlers in it go on. Fails when a task that got the end is
/// forgotten.
fn handlers_in_the_task_of_their_receiver_are_waited_for(shape: Shape) {
    all_is_handled(shape, 8, async |handled| {
        let socket = socket_with(8);
        spawn(async move {
            let mut handlers = FuturesUnordered::new();
            while socket.recv().await.unwrap().is_some() {
                let handled = Rc::clone(&handled);
                handlers.push(async move {
                    elsewhere(Duration::from_millis(20)).await;
                    add(&handled);
                });
            }
            while handlers.next().await.is_some() {}
        });
    });
}

/// The task registers with a server, and from then on only sends. Fails when the exit waits until
/// the deadline for every task that once got a datagram.
fn a_receiver_that_does_other_things_since_is_not_waited_for(shape: Shape) {
    all_is_handled(shape, 1, async |handled| {
        let socket = socket_with(1);
        let registered = Rc::clone(&handled);
        spawn(async move {
            drop(socket.recv().await.unwrap());
            add(&registered);
            let mut ticks = interval(Duration::from_millis(5));
            loop {
                ticks.tick().await;
                let _ = socket.send_to(b"metric", "127.0.0.1:9").await;
            }
        });
        while handled.get() == 0 {
            yield_now().await;
        }
    });
}

/// The answer comes when nobody waits for it any more. Fails when the exit waits for a task that
/// once asked.
fn a_receiver_that_has_given_up_is_not_waited_for_to_the_deadline(shape: Shape) {
    let runtime = shape.runtime();
    let _kept = runtime.block_on(async {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let (receiver, given_up) = (Rc::clone(&socket), Count::default());
        let gives_up = Rc::clone(&given_up);
        spawn(async move {
            assert!(timeout(Duration::from_millis(1), receiver.recv()).await.is_err());
            add(&gives_up);
            pending::<()>().await;
        });
        while given_up.get() == 0 {
            yield_now().await;
        }
        send(1, socket.local_addr().unwrap());
        socket
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::ReceiversGone, 1), "{report}");
}

/// Between two waits the receiver does something else. Fails when a `try_recv` by another task
/// replaces it.
fn a_receiver_that_does_not_wait_just_now_is_waited_for_a_moment(shape: Shape) {
    all_is_handled(shape, 5, async |handled| {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let receiver = Rc::clone(&socket);
        spawn(async move {
            loop {
                match timeout(Duration::from_millis(1), receiver.recv()).await {
                    Ok(Ok(Some(_datagram))) => add(&handled),
                    Ok(end) => return assert!(end.unwrap().is_none()),
                    Err(_elapsed) => elsewhere(Duration::from_millis(50)).await,
                }
            }
        });
        sleep(Duration::from_millis(20)).await;
        let looks = Rc::clone(&socket);
        spawn(async move { drop(looks.try_recv()) }).await.unwrap();
        send(5, socket.local_addr().unwrap());
    });
}

/// `join!(serve, drain)`: the task that drains also receives. Fails when the report says that it
/// waits for itself.
fn a_server_that_is_joined_with_its_drain_is_served(shape: Shape) {
    for wait in Wait::BOTH {
        let runtime = shape.runtime();
        runtime.block_on(async {
            let handled = Count::default();
            let socket = socket_with(COUNT);
            let serve = async {
                while socket.recv().await.unwrap().is_some() {
                    wait.pass(Duration::from_millis(2)).await;
                    add(&handled);
                }
            };
            let drain = async {
                yield_now().await;
                drain_with(patient()).await
            };
            // The drain ends only after the server has handled everything, whichever of the two
            // ends first.
            let (mut serve, mut drain) = (pin!(serve), pin!(drain));
            select(&mut serve, &mut drain).await;
            assert_eq!(handled.get(), COUNT, "{wait:?}");
        });
        drop(runtime);
    }
}

/// Fails when only the draining task itself is known to wait for the drain.
fn a_task_that_awaits_a_task_that_drains_is_told_so(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = socket_with(COUNT);
        let _first = socket.recv().await.unwrap();
        let drained = spawn(async { spawn(drain_with(patient())).await.unwrap() });
        let report = drained.await.unwrap();
        assert_eq!(report.outcome, DrainOutcome::WaitsForItself, "{}: {report}", shape.name);
        assert_eq!(report.undelivered, COUNT as u64 - 1, "{report}");
        let mut rest = 0;
        while socket.recv().await.unwrap().is_some() {
            rest += 1;
        }
        assert_eq!(rest, COUNT - 1);
    });
}

/// A task that joins the drain with other futures may be polled for them while it waits. The drain
/// reports even if the task is never polled for them.
#[test]
fn a_drain_beside_a_receive_that_is_never_polled_again_ends() {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut held = pin!(socket.recv());
        let _ = timeout(Duration::from_millis(1), &mut held).await;
        send(3, socket.local_addr().unwrap());
        let report = drain_with(patient()).await;
        assert_eq!(report.outcome, DrainOutcome::WaitsForItself, "{report}");
        let (first, ()) = join(held, yield_now()).await;
        assert!(first.unwrap().is_some());
    });
}

/// A receiver that retransmits until it gets an answer. Fails when its timeouts count as a sign
/// that it does not come back, and the report is `Complete` although datagrams are left.
fn a_receiver_that_waits_many_times_for_each_datagram_is_waited_for(shape: Shape) {
    all_is_handled(shape, 3, async |handled| {
        let socket = socket_with(3);
        spawn(async move {
            while socket.recv().await.unwrap().is_some() {
                for _ in 0..8 {
                    let _ = timeout(Duration::from_millis(5), pending::<()>()).await;
                }
                elsewhere(LONG).await;
                add(&handled);
            }
        });
    });
}

/// Each step is short, but all steps together take longer than the uncertain wait. Fails when steps
/// after the end do not count as progress.
fn what_follows_the_end_step_by_step_is_waited_for(shape: Shape) {
    for wait in Wait::BOTH {
        all_is_handled(shape, 8, async |handled| {
            let socket = socket_with(8);
            spawn(async move {
                let mut all = 0;
                while socket.recv().await.unwrap().is_some() {
                    all += 1;
                }
                for _ in 0..all {
                    wait.pass(LONG / 8).await;
                    add(&handled);
                }
            });
        });
    }
}
