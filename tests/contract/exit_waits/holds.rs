//! The exit waits for its holds (`hold_exit`).

use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome, hold_exit, spawn};
use ebbtide_testkit::{Shape, on_every_shape, patient};

use super::work::{Queue, add, all_is_handled, spawn_receiver};
use crate::queued::socket_with;

on_every_shape!(
    a_worker_that_holds_the_exit_open_is_waited_for_however_long_it_takes,
    a_hold_that_ends_on_another_thread_ends_the_wait,
    a_hold_that_never_ends_is_an_error_at_the_deadline,
);

const COUNT: usize = 20;

/// Each datagram takes longer than the uncertain wait. Fails when the exit does not wait for a
/// hold.
fn a_worker_that_holds_the_exit_open_is_waited_for_however_long_it_takes(shape: Shape) {
    let report = all_is_handled(shape, COUNT, async |handled| {
        let queue = Queue::new();
        spawn_receiver(Rc::new(socket_with(COUNT)), &queue, |datagram| datagram[0]);
        spawn(async move {
            let _hold = hold_exit();
            while queue.pop().await.is_some() {
                sleep(Duration::from_millis(25)).await;
                add(&handled);
            }
        });
    });
    assert_eq!((report.unfinished, report.tasks_dropped), (0, 0), "{report}");
}

/// Fails when the loop is not woken, or when it checks the count before it sets "asleep".
fn a_hold_that_ends_on_another_thread_ends_the_wait(shape: Shape) {
    for _ in 0..50 {
        let runtime = shape.runtime();
        let (to_thread, holds) = mpsc::channel();
        let thread = thread::spawn(move || drop(holds.recv()));
        runtime.block_on(async move {
            to_thread.send(hold_exit()).unwrap();
        });
        let report = runtime.shutdown(patient());
        assert_eq!((report.outcome, report.unfinished), (DrainOutcome::Complete, 0), "{report}");
        thread.join().unwrap();
    }
}

fn a_hold_that_never_ends_is_an_error_at_the_deadline(shape: Shape) {
    let runtime = shape.runtime();
    let hold = runtime.block_on(async { hold_exit() });
    let report = runtime.shutdown(Drain::default().deadline(Duration::from_millis(1)));
    assert_eq!((report.outcome, report.unfinished), (DrainOutcome::DeadlinePassed, 1), "{report}");
    assert!(report.into_result().is_err());
    drop(hold);
}

/// A task that was spawned for a datagram has work from the start.
#[test]
fn a_task_for_each_datagram_is_waited_for() {
    all_is_handled(Shape::DEFAULT, COUNT, async |handled| {
        let socket = socket_with(COUNT);
        spawn(async move {
            while let Some(datagram) = socket.recv().await.unwrap() {
                let handled = Rc::clone(&handled);
                let hold = hold_exit();
                spawn(async move {
                    yield_now().await;
                    sleep(Duration::from_millis(u64::from(datagram[0]) * 20)).await;
                    add(&handled);
                    drop(hold);
                });
            }
        });
    });
}
