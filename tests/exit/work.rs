//! Whom the exit takes to have work in hand: those who were handed datagrams, and those to whom they
//! hand on.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide::time::{interval, sleep, timeout};
use ebbtide::{DrainOutcome, DrainReport, Runtime, drain_with, spawn, spawn_blocking};
use futures_util::future::{Either, join, select};
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::at_work::{Queue, spawn_receiver};
use crate::support::Shape;
use crate::{LONG, elsewhere, patient, send, socket_with};

on_every_shape!(
    a_worker_whose_queue_was_filled_before_the_exit_is_waited_for,
    a_worker_is_waited_for_as_long_as_it_goes_on,
    a_task_that_was_spawned_for_a_datagram_is_waited_for,
    a_task_that_was_spawned_for_a_datagram_and_needs_long_is_reported,
    what_main_sets_up_is_no_work,
    what_only_ticks_is_no_work,
    what_ticks_is_waited_for_once,
    one_of_several_receivers_that_is_away_is_waited_for,
    a_future_beside_others_that_is_away_is_waited_for,
    handlers_in_the_task_of_their_receiver_are_waited_for,
    a_receiver_that_does_other_things_since_is_not_waited_for,
    a_receiver_that_has_given_up_is_not_waited_for_to_the_deadline,
    a_receiver_that_does_not_wait_just_now_is_waited_for_a_moment,
    a_server_that_is_joined_with_its_drain_is_served,
    a_task_that_awaits_a_task_that_drains_is_told_so,
    a_receiver_that_waits_many_times_for_each_datagram_is_waited_for,
    what_a_receiver_hands_on_at_the_end_is_waited_for,
    who_joins_receivers_is_waited_for,
    a_flush_at_a_tick_is_waited_for_to_its_end,
    an_actor_that_looks_for_datagrams_as_well_is_waited_for,
    a_worker_that_came_late_to_its_queue_is_waited_for,
    what_follows_the_end_step_by_step_is_waited_for,
    a_client_that_waits_for_its_next_tick_is_not_waited_for,
    a_heartbeat_that_was_spawned_for_a_datagram_is_no_work,
    a_worker_that_looks_idle_is_counted,
);

const COUNT: usize = 20;

type Count = Rc<Cell<usize>>;

fn add(count: &Count) {
    count.set(count.get() + 1);
}

/// Runs `setup`, ends the runtime, and expects that all was handled and nobody was at work.
fn all_is_handled<F: Future<Output = ()>>(
    shape: Shape,
    all: usize,
    setup: impl FnOnce(Count) -> F,
) -> DrainReport {
    let handled = Count::default();
    let runtime = shape.runtime();
    runtime.block_on(setup(Rc::clone(&handled)));
    let report = runtime.shutdown(patient());
    assert_eq!(handled.get(), all, "{}: {report}", shape.name);
    assert_eq!(report.outcome, DrainOutcome::Complete, "{}: {report}", shape.name);
    report
}

async fn until_delivered(socket: &UdpSocket, count: u64) {
    while socket.stats().delivered < count {
        yield_now().await;
    }
}

/// It has its work since before the drain, and only its own sleeps wake it. Fails when a task is at work
/// only if something else has woken it since the drain began.
fn a_worker_whose_queue_was_filled_before_the_exit_is_waited_for(shape: Shape) {
    all_is_handled(shape, COUNT, async |handled| {
        let queue = Queue::new();
        let socket = Rc::new(socket_with(COUNT));
        spawn_receiver(Rc::clone(&socket), &queue, |datagram| datagram[0]);
        spawn(async move {
            while queue.pop().await.is_some() {
                sleep(Duration::from_millis(1)).await;
                add(&handled);
            }
        });
        until_delivered(&socket, COUNT as u64).await;
        sleep(Duration::from_millis(5)).await;
    });
}

/// In all longer than what is uncertain is waited for. Fails when its progress is none.
fn a_worker_is_waited_for_as_long_as_it_goes_on(shape: Shape) {
    all_is_handled(shape, COUNT, async |handled| {
        let queue = Queue::new();
        let socket = Rc::new(socket_with(COUNT));
        spawn_receiver(Rc::clone(&socket), &queue, |datagram| datagram[0]);
        spawn(async move {
            while queue.pop().await.is_some() {
                elsewhere(LONG / (COUNT as u32)).await;
                add(&handled);
            }
        });
        until_delivered(&socket, COUNT as u64).await;
    });
}

/// By the time of the exit all of them wait. Fails when a task is told from one that only ticks by what
/// it does since the drain began.
fn a_task_that_was_spawned_for_a_datagram_is_waited_for(shape: Shape) {
    for sleeps in [true, false] {
        all_is_handled(shape, COUNT, async |handled| {
            let socket = Rc::new(socket_with(COUNT));
            let receiver = Rc::clone(&socket);
            spawn(async move {
                while receiver.recv().await.unwrap().is_some() {
                    let handled = Rc::clone(&handled);
                    spawn(async move {
                        match sleeps {
                            true => sleep(Duration::from_millis(20)).await,
                            false => elsewhere(Duration::from_millis(20)).await,
                        }
                        add(&handled);
                    });
                }
            });
            until_delivered(&socket, COUNT as u64).await;
            yield_now().await;
        });
    }
}

fn a_task_that_was_spawned_for_a_datagram_and_needs_long_is_reported(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = socket_with(1);
        spawn(async move {
            while socket.recv().await.unwrap().is_some() {
                spawn(pending::<()>());
            }
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.tasks_at_work), (DrainOutcome::TasksAtWork, 1), "{report}");
}

/// It was handed its configuration, and spawns what the program is made of. Fails when that is taken for
/// work.
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

/// Fails when a task is at work because it is polled for more than its timer.
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
                // Its task ends in the middle of datagrams, too.
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

/// A writer that flushes at each tick what the receiver has put down. Nobody wakes it.
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

/// Fails when the receivers that are here hide the one that is not.
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

/// Fails when the futures of one task are taken for one receiver.
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

/// The task is told the end while handlers in it go on. Fails when whoever was told the end is forgotten.
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

/// It registers with a server, and from then on only sends. Fails when whoever was handed a datagram
/// once is waited for to the deadline.
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

/// The answer comes when nobody waits for it any more. Fails when whoever has asked is waited for.
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

/// Between two waits it does something else. Fails when a look by another task takes its place.
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

/// `join!(serve, drain)`: the task that drains goes on receiving. Fails when it is told that it waits for
/// itself.
fn a_server_that_is_joined_with_its_drain_is_served(shape: Shape) {
    for sleeps in [true, false] {
        let runtime = shape.runtime();
        runtime.block_on(async {
            let handled = Count::default();
            let socket = socket_with(COUNT);
            let serve = async {
                while socket.recv().await.unwrap().is_some() {
                    match sleeps {
                        true => sleep(Duration::from_millis(2)).await,
                        false => elsewhere(Duration::from_millis(2)).await,
                    }
                    add(&handled);
                }
            };
            let drain = async {
                yield_now().await;
                drain_with(patient()).await
            };
            // The drain ends when the server has ended, or may: also where that ends the server.
            let (mut serve, mut drain) = (pin!(serve), pin!(drain));
            select(&mut serve, &mut drain).await;
            assert_eq!(handled.get(), COUNT, "sleeps: {sleeps}");
        });
        drop(runtime);
    }
}

/// Fails when only the task itself that drains is known to wait for it.
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

/// A task that is joined with others may be polled for them while it waits. The report of a drain
/// comes although it never is.
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

/// As one that retransmits until it is answered. Fails when its own timeouts tell that it does not come
/// back, and the report says `Complete` over what it has left.
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

/// A last batch that is only full enough at the end. Fails when whoever was told the end has nothing to
/// hand on.
fn what_a_receiver_hands_on_at_the_end_is_waited_for(shape: Shape) {
    for spawns in [true, false] {
        all_is_handled(shape, COUNT, async |handled| {
            let queue = Queue::new();
            let batches = Rc::clone(&queue);
            let to_writer = Rc::clone(&handled);
            spawn(async move {
                while let Some(batch) = batches.pop().await {
                    elsewhere(Duration::from_millis(20)).await;
                    Vec::<u8>::into_iter(batch).for_each(|_| add(&to_writer));
                }
            });
            let socket = Rc::new(socket_with(COUNT));
            let receiver = Rc::clone(&socket);
            spawn(async move {
                let mut batch = Vec::new();
                while let Some(datagram) = receiver.recv().await.unwrap() {
                    batch.push(datagram[0]);
                }
                match spawns {
                    true => drop(spawn(async move {
                        elsewhere(Duration::from_millis(20)).await;
                        batch.into_iter().for_each(|_| add(&handled));
                    })),
                    false => queue.push(batch),
                }
            });
            until_delivered(&socket, COUNT as u64).await;
            sleep(Duration::from_millis(5)).await;
        });
    }
}

/// Fails when the end of a task hands nothing on to whoever awaits it.
fn who_joins_receivers_is_waited_for(shape: Shape) {
    all_is_handled(shape, COUNT, async |handled| {
        let socket = Rc::new(socket_with(COUNT));
        let receiver = Rc::clone(&socket);
        let count = spawn(async move {
            let mut count = 0;
            while receiver.recv().await.unwrap().is_some() {
                count += 1;
            }
            count
        });
        spawn(async move {
            let count = count.await.unwrap();
            elsewhere(Duration::from_millis(20)).await;
            (0..count).for_each(|_| add(&handled));
        });
        until_delivered(&socket, COUNT as u64).await;
        sleep(Duration::from_millis(5)).await;
    });
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

/// It selects between a socket and a queue. Fails when looking in vain for a datagram is being done with
/// what the queue has brought.
fn an_actor_that_looks_for_datagrams_as_well_is_waited_for(shape: Shape) {
    all_is_handled(shape, 1, async |handled| {
        let queue = Queue::new();
        let jobs = Rc::clone(&queue);
        let done = Rc::clone(&handled);
        spawn(async move {
            let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
            loop {
                let received = {
                    let received = pin!(upstream.recv());
                    match select(received, pin!(jobs.pop())).await {
                        Either::Left((received, _)) => received.unwrap().is_some(),
                        Either::Right((job, _)) => job.is_some(),
                    }
                };
                if !received {
                    return;
                }
                elsewhere(Duration::from_millis(20)).await;
                add(&done);
            }
        });
        yield_now().await;
        yield_now().await;
        let socket = Rc::new(socket_with(1));
        spawn_receiver(Rc::clone(&socket), &queue, |datagram| datagram[0]);
        until_delivered(&socket, 1).await;
        yield_now().await;
    });
}

/// It connects first. Fails when only those are given work who waited for it.
fn a_worker_that_came_late_to_its_queue_is_waited_for(shape: Shape) {
    for sleeps in [true, false] {
        all_is_handled(shape, 5, async |handled| {
            let queue = Queue::new();
            let jobs = Rc::clone(&queue);
            spawn(async move {
                elsewhere(Duration::from_millis(10)).await;
                while jobs.pop().await.is_some() {
                    match sleeps {
                        true => sleep(Duration::from_millis(5)).await,
                        false => elsewhere(Duration::from_millis(5)).await,
                    }
                    add(&handled);
                }
            });
            yield_now().await;
            yield_now().await;
            let socket = Rc::new(socket_with(5));
            spawn_receiver(Rc::clone(&socket), &queue, |datagram| datagram[0]);
            until_delivered(&socket, 5).await;
            sleep(Duration::from_millis(20)).await;
        });
    }
}

/// Each step is short, and all together take longer than what is uncertain is waited for. Fails when
/// nothing after the end is progress.
fn what_follows_the_end_step_by_step_is_waited_for(shape: Shape) {
    for sleeps in [true, false] {
        all_is_handled(shape, 8, async |handled| {
            let socket = socket_with(8);
            spawn(async move {
                let mut all = 0;
                while socket.recv().await.unwrap().is_some() {
                    all += 1;
                }
                for _ in 0..all {
                    match sleeps {
                        true => sleep(LONG / 8).await,
                        false => elsewhere(LONG / 8).await,
                    }
                    add(&handled);
                }
            });
        });
    }
}

/// It has asked for the time, and will again in an hour. Fails when it is expected back.
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

/// Main registers, spawns its heartbeat for the acknowledgement, and serves. Fails when what ticks for
/// ever is cut off work.
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

/// It waits for something that is no sleep, and never comes. Fails when the report is silent about it.
fn a_worker_that_looks_idle_is_counted(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let queue = Queue::new();
        spawn_receiver(Rc::new(socket_with(COUNT)), &queue, |datagram| datagram[0]);
        spawn(async move {
            while queue.pop().await.is_some() {
                pending::<()>().await;
            }
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.tasks_unsure), (DrainOutcome::Complete, 1), "{report}");
    assert!(report.to_string().contains("tasks idle or at work 1"), "{report}");
}
