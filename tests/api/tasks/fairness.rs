//! Fairness. A task that never waits does not starve the others, and a flood does not starve a
//! timer.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::{interval, sleep, sleep_until, timeout, timeout_at};
use ebbtide::{Drain, Runtime, drain_with, spawn};
use ebbtide_testkit::{Shape, on_every_shape, unique_name, until};
use futures_util::future::join_all;

on_every_shape!(
    an_endless_stream_of_datagrams_starves_neither_timers_nor_other_sockets,
    what_a_socket_answers_without_a_datagram_lets_others_run,
);

#[test]
fn tasks_that_yield_take_turns() {
    for tasks_per_turn in [1, 2, 256] {
        let runtime = Runtime::builder().tasks_per_turn(tasks_per_turn).build().unwrap();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..5)
            .map(|number| {
                let order = Rc::clone(&order);
                runtime.spawn(async move {
                    for _ in 0..100 {
                        order.borrow_mut().push(number);
                        yield_now().await;
                    }
                })
            })
            .collect();
        runtime.block_on(join_all(tasks));
        let expected: Vec<_> = (0..500).map(|turn| turn % 5).collect();
        assert_eq!(order.take(), expected, "{tasks_per_turn} tasks a turn");
    }
}

const BUDGET: usize = 16;
const BUDGETS: usize = 10;
/// No address to send to. This is an error before any system call.
const NOWHERE: &[SocketAddr] = &[];

/// A runtime with a small budget, and the number of times that another task on it has run.
fn with_another_task() -> (Runtime, Rc<Cell<usize>>) {
    let runtime = Runtime::builder().operations_per_poll(BUDGET as u32).build().unwrap();
    let runs = Rc::new(Cell::new(0));
    let counted = Rc::clone(&runs);
    runtime.spawn(async move {
        loop {
            counted.set(counted.get() + 1);
            yield_now().await;
        }
    });
    (runtime, runs)
}

/// Fails when a send takes nothing from the budget.
#[test]
fn a_task_that_never_waits_for_its_sends_lets_others_run() {
    let (runtime, runs) = with_another_task();
    runtime.block_on(async {
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..BUDGETS * BUDGET {
            sender.send_to(b"", sink.local_addr().unwrap()).await.unwrap();
        }
    });
    assert!(runs.get() >= BUDGETS - 1, "the other task ran {} times", runs.get());
    // A drain would wait for the other task until its deadline.
    runtime.stop();
}

/// Fails when a receive takes nothing from the budget.
#[test]
fn a_task_that_never_waits_for_its_receives_lets_others_run() {
    let (runtime, runs) = with_another_task();
    runtime.block_on(async {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        for _ in 0..BUDGETS * BUDGET {
            sender.send(b"datagram").await.unwrap();
        }
        until(|| receiver.stats().received == (BUDGETS * BUDGET) as u64).await;
        runs.set(0);
        for _ in 0..BUDGETS * BUDGET {
            receiver.recv().await.unwrap().expect("not drained");
        }
    });
    assert!(runs.get() >= BUDGETS - 1, "the other task ran {} times", runs.get());
    // A drain would wait for the other task until its deadline.
    runtime.stop();
}

/// Runs a loop until the other task has run several times. Fails when the loop never yields: it is
/// stopped after far more turns than its budgets allow.
fn gives_way(name: &str, step: impl AsyncFn()) {
    let runtime = Runtime::builder().operations_per_poll(BUDGET as u32).build().unwrap();
    gives_way_on(&runtime, name, step);
    runtime.stop();
}

fn gives_way_on(runtime: &Runtime, name: &str, step: impl AsyncFn()) {
    let runs = Rc::new(Cell::new(0));
    let counted = Rc::clone(&runs);
    let other = runtime.spawn(async move {
        loop {
            counted.set(counted.get() + 1);
            yield_now().await;
        }
    });
    runtime.block_on(async {
        let mut turns = 0;
        while runs.get() < BUDGETS && turns < 100 * BUDGETS * BUDGET {
            step().await;
            turns += 1;
        }
    });
    other.abort();
    assert!(runs.get() >= BUDGETS, "{name}: the other task ran {} times", runs.get());
}

/// Fails when futures that are ready at once take nothing from the budget.
#[test]
fn what_is_ready_without_waiting_lets_others_run() {
    let past = Instant::now();
    let behind = RefCell::new(interval(Duration::from_nanos(1)));
    gives_way("a sleep of no length", async || sleep(Duration::ZERO).await);
    gives_way("a sleep until now", async || sleep_until(past).await);
    gives_way("a tick that is due", async || {
        poll_fn(|cx| behind.borrow_mut().poll_tick(cx)).await;
    });
    gives_way("a timeout of no length", async || {
        timeout(Duration::ZERO, pending::<()>()).await.unwrap_err();
    });
    gives_way("a timeout at a deadline that has passed", async || {
        timeout_at(past, pending::<()>()).await.unwrap_err();
    });
    gives_way("a drain that has no time", async || {
        let _ = drain_with(Drain::default().deadline(Duration::ZERO)).await;
    });
}

/// Fails when the end of a task takes nothing from the budget.
#[test]
fn a_task_that_awaits_ended_tasks_lets_others_run() {
    let (runtime, runs) = with_another_task();
    runtime.block_on(async {
        let ended: Vec<_> = (0..BUDGETS * BUDGET).map(|_| spawn(async {})).collect();
        until(|| ended.iter().all(|task| task.is_finished())).await;
        runs.set(0);
        for task in ended {
            task.await.unwrap();
        }
    });
    assert!(runs.get() >= BUDGETS - 1, "the other task ran {} times", runs.get());
    runtime.stop();
}

/// Fails when the results of a socket that are no datagrams take nothing from the budget.
fn what_a_socket_answers_without_a_datagram_lets_others_run(shape: Shape) {
    let runtime = shape.builder().operations_per_poll(BUDGET as u32).build().unwrap();
    let (drained, writable, _peer) = runtime.block_on(async {
        let (writable, peer) = UnixDatagram::pair().unwrap();
        let drained = UdpSocket::bind("127.0.0.1:0").unwrap();
        drained.drain().unwrap();
        (drained, writable, peer)
    });
    gives_way_on(&runtime, "the end of a socket", async || {
        assert!(drained.recv().await.unwrap().is_none());
    });
    gives_way_on(&runtime, "an empty batch", async || {
        assert_eq!(drained.recv_batch(&mut Vec::new(), 0).await.unwrap(), 0);
    });
    gives_way_on(&runtime, "a destination that cannot be", async || {
        drained.send_to(b"datagram", NOWHERE).await.unwrap_err();
    });
    gives_way_on(&runtime, "space that is there", async || writable.writable().await.unwrap());
    runtime.stop();
}

/// A deadline holds even if the future that it bounds is always ready. Fails when the timeout,
/// which is polled after that future has used up the budget, never completes.
#[test]
fn a_timeout_around_what_is_always_ready_ends() {
    for wait in [Duration::ZERO, Duration::from_millis(1)] {
        let runtime = Runtime::builder().operations_per_poll(1).build().unwrap();
        let ended = runtime.block_on(async {
            let busy = async {
                for _ in 0..10_000_000 {
                    sleep(Duration::ZERO).await;
                }
            };
            timeout(wait, busy).await
        });
        ended.unwrap_err();
    }
}

/// Fails when a runtime that runs and ends inside a task of another runtime resets the budget of
/// that task.
#[test]
fn a_runtime_that_ends_inside_a_task_leaves_its_budget() {
    let (runtime, runs) = with_another_task();
    runtime.block_on(async {
        runs.set(0);
        drop(Runtime::new().unwrap());
        for _ in 0..BUDGETS * BUDGET {
            sleep(Duration::ZERO).await;
        }
    });
    assert!(runs.get() >= BUDGETS - 1, "the other task ran {} times", runs.get());
    runtime.stop();
}

/// Fails when a poll has no budget, or when a turn does not end.
fn an_endless_stream_of_datagrams_starves_neither_timers_nor_other_sockets(shape: Shape) {
    const MOST: usize = 1_000_000;
    let runtime = shape.runtime();
    let name = unique_name("endless");
    let stop = Arc::new(AtomicBool::new(false));
    let received = runtime.block_on(async {
        let busy = UnixDatagram::bind_addr(&name).unwrap();
        let flood = thread::spawn({
            let stop = Arc::clone(&stop);
            move || flood(&name, &stop)
        });
        let served = Rc::new(Cell::new(0));
        let (timer, other) = (Rc::clone(&served), Rc::clone(&served));
        spawn(async move {
            for _ in 0..10 {
                sleep(Duration::from_millis(1)).await;
                timer.set(timer.get() + 1);
            }
        });
        spawn(async move {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            for _ in 0..10 {
                sender.send(b"datagram").await.unwrap();
                receiver.recv().await.unwrap().expect("not drained");
                other.set(other.get() + 1);
            }
        });
        let mut received = 0;
        while served.get() < 20 && received < MOST {
            busy.recv().await.unwrap().expect("not drained");
            received += 1;
        }
        stop.store(true, Ordering::Relaxed);
        drop(busy);
        flood.join().unwrap();
        received
    });
    assert!(received < MOST, "{}: nothing else was served", shape.name);
}

/// Sends datagrams without a pause.
fn flood(name: &ebbtide::net::UnixAddr, stop: &AtomicBool) {
    use std::os::linux::net::SocketAddrExt;
    let name = name.as_abstract_name().expect("the name is abstract").to_vec();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
    while !stop.load(Ordering::Relaxed) {
        // Fails when the receiver is closed.
        if sender.send_to_addr(b"datagram", &address).is_err() {
            return;
        }
    }
}
