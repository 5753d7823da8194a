//! Runtimes inside, after and beside each other.

use std::cell::{Cell, RefCell};
use std::fs;
use std::future::pending;
use std::rc::Rc;
use std::thread;

use ebbtide::net::UnixDatagram;
use ebbtide::task::yield_now;
use ebbtide::{RunningDriver, Runtime, spawn};
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::leaks::leaves_nothing;
use ebbtide_testkit::{Ledger, numbered};
use futures_util::FutureExt;

use super::small_runtime;

#[test]
fn a_runtime_dropped_inside_a_task_of_another_drains_and_leaves_that_one_alone() {
    leaves_nothing(|| {
        let (outer, inner) = (small_runtime(), small_runtime());
        let received = Rc::new(Cell::new(0));
        let counted = Rc::clone(&received);
        inner.block_on(async {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            for _ in 0..10 {
                sender.send(b"datagram").await.unwrap();
            }
            spawn(async move {
                while receiver.recv().await.unwrap().is_some() {
                    counted.set(counted.get() + 1);
                }
            });
        });
        let task = outer.spawn(async move {
            drop(inner);
            // Another runtime starts and ends inside the task.
            drop(small_runtime());
            assert_eq!(received.get(), 10);
            // Returns 1 if the outer runtime is current again.
            spawn(async { 1 }).await.unwrap()
        });
        assert_eq!(outer.block_on(task).unwrap(), 1);
        drop(outer);
    });
}

#[test]
fn a_runtime_can_follow_another_and_hand_its_futures_over() {
    leaves_nothing(|| {
        let (first, second) = (small_runtime(), small_runtime());
        let (sender, receiver) = first.block_on(async { UnixDatagram::pair().unwrap() });
        let mut task = first.spawn(async move {
            let datagram = receiver.recv().await.unwrap().expect("not drained");
            datagram.to_vec()
        });
        second.block_on(async {
            assert!((&mut task).now_or_never().is_none());
            sender.send(b"across").await.unwrap();
        });
        assert_eq!(first.block_on(task).unwrap(), b"across");
        second.block_on(async { drop(sender) });
        drop(first);
        second.block_on(yield_now());
        drop(second);
    });
}

#[test]
fn two_runtimes_on_two_threads_exchange_datagrams() {
    leaves_nothing(|| {
        const COUNT: u64 = 10_000;
        let (one, other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let exchange = |socket: std::os::unix::net::UnixDatagram| {
            small_runtime().block_on(async {
                let socket = Rc::new(UnixDatagram::from_std(socket).unwrap());
                let sender = Rc::clone(&socket);
                let sending = spawn(async move {
                    for number in 0..COUNT {
                        sender.send(&numbered(0, number, 12)).await.unwrap();
                    }
                });
                let mut ledger = Ledger::default();
                while ledger.received < COUNT {
                    ledger.enter(&socket.recv().await.unwrap().expect("not drained"));
                }
                sending.await.unwrap();
                ledger.holes
            })
        };
        let holes = thread::scope(|scope| {
            let there = scope.spawn(move || exchange(other));
            exchange(one) + there.join().unwrap()
        });
        assert_eq!(holes, 0);
    });
}

#[test]
fn two_hundred_runtimes_leave_nothing() {
    leaves_nothing(|| {
        for round in 0..200u32 {
            let runtime = small_runtime();
            runtime.block_on(async {
                let (sender, receiver) = UnixDatagram::pair().unwrap();
                sender.send(&round.to_le_bytes()).await.unwrap();
                let datagram = receiver.recv().await.unwrap().expect("not drained");
                assert_eq!(datagram[..], round.to_le_bytes());
                spawn(pending::<()>());
            });
        }
    });
}

/// Pools have their own test, in `mapping.rs`. Fails when forked children get the memory of a ring.
#[test]
fn rings_are_kept_from_forked_children() {
    in_a_child(|| {
        let runtime = small_runtime();
        let mappings = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = mappings.lines();
        let mut rings = 0;
        while lines.any(|line| line.ends_with("[io_uring]")) {
            let flags = lines.find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
            assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{flags}");
            rings += 1;
        }
        let has_ring = matches!(runtime.driver(), RunningDriver::IoUring { .. });
        assert_eq!(rings > 0, has_ring, "{rings} mappings");
    });
}

#[test]
fn a_runtime_in_a_thread_local_ends_with_its_thread() {
    leaves_nothing(|| {
        thread_local! {
            static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
        }
        let thread = thread::spawn(|| {
            RUNTIME.with_borrow_mut(|kept| {
                let runtime = kept.insert(small_runtime());
                runtime.spawn(pending::<()>());
                runtime.block_on(yield_now());
            });
        });
        thread.join().unwrap();
    });
}
