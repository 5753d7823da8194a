//! Workers: tasks that get datagrams from a receiver and need time for each.

use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::{Datagram, UdpSocket};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{DrainOutcome, spawn};
use ebbtide_testkit::{Shape, on_every_shape, patient};
use futures_util::future::{Either, select};

use super::work::{
    LONG, Queue, Wait, add, all_is_handled, elsewhere, exit_after, spawn_receiver, spawn_worker,
    until_delivered,
};
use crate::queued::socket_with;

on_every_shape!(
    a_worker_that_needs_a_moment_is_waited_for,
    a_worker_that_needs_long_is_reported,
    what_a_worker_that_is_cut_off_holds_is_reported,
    what_was_read_past_the_pool_is_in_hand_too,
    a_worker_whose_queue_was_filled_before_the_exit_is_waited_for,
    a_worker_is_waited_for_as_long_as_it_goes_on,
    a_task_that_was_spawned_for_a_datagram_is_waited_for,
    a_task_that_was_spawned_for_a_datagram_and_needs_long_is_reported,
    what_a_receiver_hands_on_at_the_end_is_waited_for,
    who_joins_receivers_is_waited_for,
    an_actor_that_looks_for_datagrams_as_well_is_waited_for,
    a_worker_that_came_late_to_its_queue_is_waited_for,
    a_worker_that_looks_idle_is_counted,
);

const COUNT: usize = 20;

/// Fails when a task that works cannot be distinguished from one that only ticks.
fn a_worker_that_needs_a_moment_is_waited_for(shape: Shape) {
    all_is_handled(shape, 1, async |handled| {
        spawn_worker(Rc::new(socket_with(1)), async move || {
            sleep(Duration::from_micros(100)).await;
            add(&handled);
        });
    });
}

/// Fails when the report is `Complete` although work was cut off.
fn a_worker_that_needs_long_is_reported(shape: Shape) {
    let report = exit_after(shape, async || {
        spawn_worker(Rc::new(socket_with(COUNT)), || sleep(Duration::from_secs(3_600)));
    });
    assert_eq!((report.outcome, report.tasks_at_work), (DrainOutcome::TasksAtWork, 1), "{report}");
    assert!(report.into_result().unwrap_err().to_string().contains("hold_exit()"));
}

/// The worker waits for another thread, so no timer shows that it works. Fails when the datagrams
/// that are dropped with the tasks are not counted.
fn what_a_worker_that_is_cut_off_holds_is_reported(shape: Shape) {
    let report = exit_after(shape, async || {
        let queue = Queue::<Datagram>::new();
        spawn_receiver(Rc::new(socket_with(3)), &queue, |datagram| datagram);
        spawn(async move {
            let _first = queue.pop().await;
            pending::<()>().await;
            queue.close();
        });
    });
    assert_eq!((report.outcome, report.in_hand), (DrainOutcome::TasksAtWork, 3), "{report}");
    assert_eq!(report.stats.delivered, 3, "{report}");
}

/// The pool is so small that the drain reads past it. Fails when only buffers of the pool count.
fn what_was_read_past_the_pool_is_in_hand_too(shape: Shape) {
    let runtime = shape.builder().buffers(8).build().unwrap();
    runtime.block_on(async {
        let socket = socket_with(60);
        spawn(async move {
            let mut held = Vec::new();
            while let Some(datagram) = socket.recv().await.unwrap() {
                held.push(datagram);
            }
            held.drain(..20);
            pending::<()>().await;
            drop(held);
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.stats.delivered, report.in_hand), (60, 40), "{}: {report}", shape.name);
    assert_eq!(report.outcome, DrainOutcome::TasksAtWork, "{report}");
}

/// The worker has had its work since before the drain, and only its own sleeps wake it. Fails when
/// a task counts as working only if something else has woken it since the drain began.
fn a_worker_whose_queue_was_filled_before_the_exit_is_waited_for(shape: Shape) {
    all_is_handled(shape, COUNT, async |handled| {
        let socket = Rc::new(socket_with(COUNT));
        spawn_worker(Rc::clone(&socket), async move || {
            sleep(Duration::from_millis(1)).await;
            add(&handled);
        });
        until_delivered(&socket, COUNT as u64).await;
        sleep(Duration::from_millis(5)).await;
    });
}

/// All work together takes longer than the uncertain wait. Fails when it does not count as
/// progress.
fn a_worker_is_waited_for_as_long_as_it_goes_on(shape: Shape) {
    all_is_handled(shape, COUNT, async |handled| {
        let socket = Rc::new(socket_with(COUNT));
        spawn_worker(Rc::clone(&socket), async move || {
            elsewhere(LONG / (COUNT as u32)).await;
            add(&handled);
        });
        until_delivered(&socket, COUNT as u64).await;
    });
}

/// All tasks wait at the time of the exit. Fails when only what a task does after the drain began
/// distinguishes it from one that only ticks.
fn a_task_that_was_spawned_for_a_datagram_is_waited_for(shape: Shape) {
    for wait in Wait::BOTH {
        all_is_handled(shape, COUNT, async |handled| {
            let socket = Rc::new(socket_with(COUNT));
            let receiver = Rc::clone(&socket);
            spawn(async move {
                while receiver.recv().await.unwrap().is_some() {
                    let handled = Rc::clone(&handled);
                    spawn(async move {
                        wait.pass(Duration::from_millis(20)).await;
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
    let report = exit_after(shape, async || {
        let socket = socket_with(1);
        spawn(async move {
            while socket.recv().await.unwrap().is_some() {
                spawn(pending::<()>());
            }
        });
    });
    assert_eq!((report.outcome, report.tasks_at_work), (DrainOutcome::TasksAtWork, 1), "{report}");
}

/// The receiver passes on its last batch at the end. Fails when a task that got the end is assumed
/// to have nothing to pass on.
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

/// Fails when the end of a task passes no work to the task that awaits it.
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

/// An actor selects between a socket and a queue. Fails when an unsuccessful look for a datagram
/// counts as the end of the work that the queue brought.
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

/// The worker connects first, and receives from its queue later. Fails when only tasks that waited
/// for work are given it.
fn a_worker_that_came_late_to_its_queue_is_waited_for(shape: Shape) {
    for wait in Wait::BOTH {
        all_is_handled(shape, 5, async |handled| {
            let queue = Queue::new();
            let jobs = Rc::clone(&queue);
            spawn(async move {
                elsewhere(Duration::from_millis(10)).await;
                while jobs.pop().await.is_some() {
                    wait.pass(Duration::from_millis(5)).await;
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

/// The worker waits for something that is not a sleep and never comes. Fails when the report does
/// not mention it.
fn a_worker_that_looks_idle_is_counted(shape: Shape) {
    let report = exit_after(shape, async || {
        spawn_worker(Rc::new(socket_with(COUNT)), pending::<()>);
    });
    assert_eq!((report.outcome, report.tasks_unsure), (DrainOutcome::Complete, 1), "{report}");
    assert!(report.to_string().contains("tasks idle or at work 1"), "{report}");
}
