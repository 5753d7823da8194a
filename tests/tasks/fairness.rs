//! Nobody starves: neither a task beside one that never waits, nor a timer beside a flood.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Runtime, spawn};
use futures_util::future::join_all;

use super::until;
use crate::support::{Shape, unique_name};

on_every_shape!(an_endless_stream_of_datagrams_starves_neither_timers_nor_other_sockets);

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

/// A runtime with a small budget, and a count of how often the other task on it has run.
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

/// Fails when a poll has no budget, or a turn no end.
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
    assert!(received < MOST, "{}: nobody else was served", shape.name);
}

/// Sends datagrams without a pause.
fn flood(name: &ebbtide::net::UnixAddr, stop: &AtomicBool) {
    use std::os::linux::net::SocketAddrExt;
    let name = name.as_abstract_name().expect("it is abstract").to_vec();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
    while !stop.load(Ordering::Relaxed) {
        // Fails when the receiver is gone.
        if sender.send_to_addr(b"datagram", &address).is_err() {
            return;
        }
    }
}
