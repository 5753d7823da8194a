//! Workers that get datagrams from a receiver, and need time for each.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use ebbtide::net::{Datagram, UdpSocket};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome, Runtime, hold_exit, spawn};

use crate::support::Shape;
use crate::{patient, socket_with};

on_every_shape!(
    a_worker_that_needs_a_moment_is_waited_for,
    a_worker_that_holds_the_exit_open_is_waited_for_however_long_it_takes,
    a_worker_that_needs_long_is_reported,
    what_a_worker_that_is_cut_off_holds_is_reported,
    what_was_read_past_the_pool_is_in_hand_too,
    a_hold_that_ends_on_another_thread_ends_the_wait,
    a_hold_that_never_ends_is_an_error_at_the_deadline,
);

const COUNT: usize = 20;

/// A queue between two tasks.
pub(crate) struct Queue<T> {
    items: RefCell<VecDeque<T>>,
    closed: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Rc<Self> {
        let items = RefCell::default();
        Rc::new(Self { items, closed: Cell::new(false), waker: Cell::default() })
    }

    pub(crate) fn push(&self, item: T) {
        self.items.borrow_mut().push_back(item);
        self.wake();
    }

    fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(crate) async fn pop(&self) -> Option<T> {
        poll_fn(|cx| match self.items.borrow_mut().pop_front() {
            None if !self.closed.get() => {
                self.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
            item => Poll::Ready(item),
        })
        .await
    }
}

/// Hands each datagram, as what `wrap` makes of it, on to `queue`.
pub(crate) fn spawn_receiver<T: 'static>(
    socket: Rc<UdpSocket>,
    queue: &Rc<Queue<T>>,
    wrap: impl Fn(Datagram) -> T + 'static,
) {
    let queue = Rc::clone(queue);
    spawn(async move {
        while let Some(datagram) = socket.recv().await.unwrap() {
            queue.push(wrap(datagram));
        }
        queue.close();
    });
}

/// Fails when a task that works is told from one that only ticks by nothing.
fn a_worker_that_needs_a_moment_is_waited_for(shape: Shape) {
    let runtime = shape.runtime();
    let handled = Rc::new(Cell::new(0));
    runtime.block_on(async {
        let (queue, handled) = (Queue::new(), Rc::clone(&handled));
        spawn_receiver(Rc::new(socket_with(1)), &queue, |datagram| datagram[0]);
        spawn(async move {
            while queue.pop().await.is_some() {
                sleep(Duration::from_micros(100)).await;
                handled.set(handled.get() + 1);
            }
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, handled.get()), (DrainOutcome::Complete, 1), "{report}");
}

/// Longer than what is uncertain is waited for. Fails when a hold is not waited for.
fn a_worker_that_holds_the_exit_open_is_waited_for_however_long_it_takes(shape: Shape) {
    let runtime = shape.runtime();
    let handled = Rc::new(Cell::new(0));
    runtime.block_on(async {
        let (queue, handled) = (Queue::new(), Rc::clone(&handled));
        spawn_receiver(Rc::new(socket_with(COUNT)), &queue, |datagram| datagram[0]);
        spawn(async move {
            let _hold = hold_exit();
            while queue.pop().await.is_some() {
                sleep(Duration::from_millis(25)).await;
                handled.set(handled.get() + 1);
            }
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, handled.get()), (DrainOutcome::Complete, COUNT), "{report}");
    assert_eq!((report.unfinished, report.tasks_dropped), (0, 0), "{report}");
}

/// Fails when a report says `Complete` over work that was cut off.
fn a_worker_that_needs_long_is_reported(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let queue = Queue::new();
        spawn_receiver(Rc::new(socket_with(COUNT)), &queue, |datagram| datagram[0]);
        spawn(async move {
            while queue.pop().await.is_some() {
                sleep(Duration::from_secs(3_600)).await;
            }
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.tasks_at_work), (DrainOutcome::TasksAtWork, 1), "{report}");
    assert!(report.into_result().unwrap_err().to_string().contains("hold_exit()"));
}

/// It waits for another thread, so that no timer tells that it is at work. Fails when nobody counts
/// what is dropped with the tasks.
fn what_a_worker_that_is_cut_off_holds_is_reported(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let queue = Queue::<Datagram>::new();
        spawn_receiver(Rc::new(socket_with(3)), &queue, |datagram| datagram);
        spawn(async move {
            let _first = queue.pop().await;
            std::future::pending::<()>().await;
            queue.close();
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.in_hand), (DrainOutcome::TasksAtWork, 3), "{report}");
    assert_eq!(report.stats.delivered, 3, "{report}");
}

/// A pool so small that the drain reads beside it. Fails when only buffers count.
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
            std::future::pending::<()>().await;
            drop(held);
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.stats.delivered, report.in_hand), (60, 40), "{}: {report}", shape.name);
    assert_eq!(report.outcome, DrainOutcome::TasksAtWork, "{report}");
}

/// Fails when the loop is not woken, or looks at the count before it says that it sleeps.
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

/// A task that was spawned for each datagram is at work from the start.
#[test]
fn a_task_for_each_datagram_is_waited_for() {
    let runtime = Runtime::new().unwrap();
    let handled = Rc::new(Cell::new(0));
    runtime.block_on(async {
        let (socket, handled) = (socket_with(COUNT), Rc::clone(&handled));
        spawn(async move {
            while let Some(datagram) = socket.recv().await.unwrap() {
                let handled = Rc::clone(&handled);
                let hold = hold_exit();
                spawn(async move {
                    yield_now().await;
                    sleep(Duration::from_millis(u64::from(datagram[0]) * 20)).await;
                    handled.set(handled.get() + 1);
                    drop(hold);
                });
            }
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, handled.get()), (DrainOutcome::Complete, COUNT), "{report}");
}
