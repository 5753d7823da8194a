//! What outlives what: whichever of runtime, task, socket, datagram, waker, handle and timer goes
//! first, nothing leaks, nothing hangs, and nothing is used after it is gone.

mod support;

use std::cell::{Cell, RefCell};
use std::fs;
use std::future::{Future, pending, poll_fn};
use std::net;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome, JoinHandle, RunningDriver, Runtime, spawn};
use futures_util::FutureExt;
use support::{Ledger, numbered};

/// The test that holds it is alone in the process, so that it can count what the process has.
static ALONE: Mutex<()> = Mutex::new(());

/// What the process had before a test, to be compared with what it has afterwards.
struct Before {
    descriptors: usize,
    lent: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Before {
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { descriptors: descriptors(), lent: mappings_lent(), _alone: alone }
    }

    fn assert_nothing_leaked(self) {
        assert_eq!(descriptors(), self.descriptors, "descriptors");
        assert_eq!(mappings_lent(), self.lent, "mappings of rings and pools");
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Mappings that forked children do not get, as only rings and pools are ("dc" in proc(5)). A count
/// of all mappings would have to allow for what the allocator and the test runner's threads keep.
fn mappings_lent() -> usize {
    let mappings = fs::read_to_string("/proc/self/smaps").unwrap();
    let flags = mappings.lines().filter_map(|line| line.strip_prefix("VmFlags:"));
    flags.filter(|flags| flags.split_whitespace().any(|flag| flag == "dc")).count()
}

fn small_runtime() -> Runtime {
    Runtime::builder().buffers(64).build().unwrap()
}

/// Counts the futures that are alive: each holds a clone.
type Alive = Rc<()>;

fn alive(count: &Alive) -> usize {
    Rc::strong_count(count) - 1
}

mod tasks {
    use super::*;

    #[test]
    fn a_task_that_panics_leaves_nothing() {
        let before = Before::new();
        let count = Alive::default();
        let runtime = small_runtime();
        for round in 0..100 {
            let held = count.clone();
            runtime.spawn(async move {
                let _socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                if round % 2 == 0 {
                    yield_now().await;
                }
                drop(held);
                panic!("on purpose");
            });
        }
        runtime.block_on(async {
            while alive(&count) > 0 {
                yield_now().await;
            }
        });
        assert_eq!(runtime.metrics().tasks, 0);
        assert_eq!(runtime.shutdown(Drain::default()).tasks_dropped, 0);
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_task_that_waits_for_ever_is_dropped_at_the_end_without_delay() {
        let before = Before::new();
        let count = Alive::default();
        let runtime = small_runtime();
        for _ in 0..10 {
            let held = count.clone();
            runtime.spawn(async move {
                let _held = held;
                pending::<()>().await;
            });
        }
        runtime.block_on(yield_now());
        assert_eq!(alive(&count), 10);
        // Hangs, or nearly, if the end waits for them.
        let report = runtime.shutdown(Drain::default().deadline(Duration::from_secs(3600)));
        assert_eq!((alive(&count), report.tasks_dropped), (0, 10));
        assert_eq!(report.outcome, DrainOutcome::Complete);
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_deadline_may_be_out_of_reach() {
        let before = Before::new();
        let report = small_runtime().shutdown(Drain::default().deadline(Duration::MAX));
        assert_eq!(report.outcome, DrainOutcome::Complete);
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_task_that_is_busy_for_ever_is_dropped_at_the_deadline() {
        let before = Before::new();
        let count = Alive::default();
        let runtime = small_runtime();
        let held = count.clone();
        runtime.spawn(async move {
            let _held = held;
            loop {
                yield_now().await;
            }
        });
        runtime.block_on(yield_now());
        let report = runtime.shutdown(Drain::default().deadline(Duration::from_millis(10)));
        assert_eq!((alive(&count), report.tasks_dropped), (0, 1));
        before.assert_nothing_leaked();
    }

    /// Spawns another task when it is dropped, which does the same, `depth` times.
    struct SpawnsWhenDropped {
        depth: usize,
        handles: Rc<RefCell<Vec<JoinHandle<()>>>>,
        _held: Alive,
    }

    impl SpawnsWhenDropped {
        async fn wait(self) {
            pending::<()>().await;
        }
    }

    impl Drop for SpawnsWhenDropped {
        fn drop(&mut self) {
            if self.depth > 0 {
                let next = Self {
                    depth: self.depth - 1,
                    handles: Rc::clone(&self.handles),
                    _held: self._held.clone(),
                };
                let handle = spawn(next.wait());
                self.handles.borrow_mut().push(handle);
            }
        }
    }

    #[test]
    fn what_a_destructor_spawns_while_the_runtime_runs_is_a_task() {
        let before = Before::new();
        let (count, handles) = (Alive::default(), Rc::default());
        small_runtime().block_on(async {
            let first =
                SpawnsWhenDropped { depth: 3, handles: Rc::clone(&handles), _held: count.clone() };
            let task = spawn(first.wait());
            yield_now().await;
            task.abort();
            assert!(task.await.is_err());
            for spawned in 1..=3 {
                assert_eq!((handles.borrow().len(), alive(&count)), (spawned, 1));
                let handle = handles.borrow_mut().pop().expect("it was spawned");
                assert!(!handle.is_finished());
                handle.abort();
                assert!(handle.await.is_err());
                handles.borrow_mut().extend((0..spawned).map(|_| spawn(async {})));
            }
        });
        handles.borrow_mut().clear();
        assert_eq!(alive(&count), 0);
        before.assert_nothing_leaked();
    }

    #[test]
    fn what_a_destructor_spawns_at_the_end_is_cancelled() {
        let before = Before::new();
        let (count, handles) = (Alive::default(), Rc::default());
        let runtime = small_runtime();
        for _ in 0..10 {
            let first =
                SpawnsWhenDropped { depth: 3, handles: Rc::clone(&handles), _held: count.clone() };
            runtime.spawn(first.wait());
        }
        runtime.block_on(yield_now());
        drop(runtime);
        assert_eq!((alive(&count), handles.borrow().len()), (0, 30));
        for handle in handles.take() {
            assert!(handle.is_finished());
            let result = handle.now_or_never().expect("it is finished");
            assert!(result.unwrap_err().is_cancelled());
        }
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_join_handle_outlives_its_runtime() {
        let before = Before::new();
        let runtime = small_runtime();
        let ended = runtime.spawn(async { 1 });
        let cancelled = runtime.spawn(pending::<()>());
        let aborted = runtime.spawn(pending::<()>());
        let dropped = runtime.spawn(async { "a result that nobody takes".to_owned() });
        runtime.block_on(yield_now());
        drop(runtime);
        aborted.abort();
        assert!(ended.is_finished() && cancelled.is_finished() && aborted.is_finished());
        assert_eq!(ended.now_or_never().unwrap().unwrap(), 1);
        assert!(cancelled.now_or_never().unwrap().unwrap_err().is_cancelled());
        assert!(aborted.now_or_never().unwrap().unwrap_err().is_cancelled());
        drop(dropped);
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_handle_outlives_its_runtime() {
        let before = Before::new();
        let runtime = small_runtime();
        let handle = runtime.handle().clone();
        drop(runtime);
        let task = handle.spawn(async { unreachable!("nobody polls it") });
        assert!(task.now_or_never().unwrap().unwrap_err().is_cancelled());
        drop(handle);
        before.assert_nothing_leaked();
    }
}

mod sockets {
    use super::*;

    /// Fails unless the port that `socket` was bound to is free.
    fn assert_free(address: net::SocketAddr) {
        drop(net::UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}")));
    }

    /// A socket in the runtime of this thread, with datagrams in its inbox and in its queue.
    async fn socket_with_datagrams() -> (UdpSocket, net::SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let sender = net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"for the inbox", address).unwrap();
        while socket.stats().received == 0 {
            yield_now().await;
        }
        sender.send_to(b"for the queue", address).unwrap();
        (socket, address)
    }

    #[test]
    fn a_socket_dropped_inside_frees_its_address_at_once() {
        let before = Before::new();
        small_runtime().block_on(async {
            let (socket, address) = socket_with_datagrams().await;
            drop(socket);
            assert_free(address);
            let in_task = spawn(async {
                let (_socket, address) = socket_with_datagrams().await;
                address
            });
            assert_free(in_task.await.unwrap());
        });
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_socket_dropped_between_two_block_ons_frees_its_address_at_once() {
        let before = Before::new();
        let runtime = small_runtime();
        for _ in 0..3 {
            let (socket, address) = runtime.block_on(socket_with_datagrams());
            drop(socket);
            assert_free(address);
        }
        assert_eq!(runtime.shutdown(Drain::default()).stats.discarded, 3);
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_socket_dropped_with_its_task_at_the_end_frees_its_address() {
        let before = Before::new();
        let runtime = small_runtime();
        let (socket, address) = runtime.block_on(socket_with_datagrams());
        runtime.spawn(async move {
            pending::<()>().await;
            drop(socket);
        });
        runtime.shutdown(Drain::default().deadline(Duration::ZERO));
        assert_free(address);
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_socket_dropped_after_the_end_leaks_nothing() {
        let before = Before::new();
        let runtime = small_runtime();
        let (socket, address) = runtime.block_on(socket_with_datagrams());
        let report = runtime.shutdown(Drain::default().deadline(Duration::ZERO));
        assert_eq!((report.undelivered, report.stats.received), (2, 2), "{report}");
        assert_free(address);
        assert!(socket.recv().now_or_never().expect("it is over").unwrap().is_none());
        let to = net::SocketAddr::from(([127, 0, 0, 1], 9));
        let send = socket.send_to(b"late", to).now_or_never().expect("it is over");
        assert_eq!(send.unwrap_err().kind(), std::io::ErrorKind::NotConnected);
        drop(socket);
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_socket_dropped_while_a_panic_unwinds_block_on_leaks_nothing() {
        let before = Before::new();
        let runtime = small_runtime();
        let bound = Cell::new(None);
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                let (_socket, address) = socket_with_datagrams().await;
                bound.set(Some(address));
                panic!("on purpose");
            })
        }));
        assert!(unwound.is_err());
        assert_free(bound.get().expect("it was bound"));
        runtime.block_on(async { drop(socket_with_datagrams().await) });
        drop(runtime);
        before.assert_nothing_leaked();
    }

    /// Unwinding drains as well.
    #[test]
    fn a_runtime_dropped_while_a_panic_unwinds_delivers_what_was_queued() {
        let before = Before::new();
        let received = Rc::new(Cell::new(0));
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let runtime = small_runtime();
            let (socket, _) = runtime.block_on(socket_with_datagrams());
            let received = Rc::clone(&received);
            runtime.spawn(async move {
                while socket.recv().await.unwrap().is_some() {
                    received.set(received.get() + 1);
                }
            });
            runtime.block_on(async { panic!("on purpose") })
        }));
        assert!(unwound.is_err());
        assert_eq!(received.get(), 2);
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_send_that_waits_for_room_outlives_its_socket_and_its_runtime() {
        let before = Before::new();
        let runtime = small_runtime();
        let (sender, full) = runtime.block_on(async {
            let (sender, full) = std::os::unix::net::UnixDatagram::pair().unwrap();
            (UnixDatagram::from_std(sender).unwrap(), full)
        });
        while sender.try_send(b"fill").is_ok() {}
        runtime.block_on(async {
            let mut waiting = sender.send(b"waits");
            assert!((&mut waiting).now_or_never().is_none());
            yield_now().await;
        });
        runtime.spawn(async move { sender.send(b"waits as well").await });
        runtime.block_on(yield_now());
        let report = runtime.shutdown(Drain::default().deadline(Duration::from_millis(10)));
        assert_eq!((report.unfinished, report.tasks_dropped), (1, 1), "{report}");
        drop(full);
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_datagram_outlives_its_socket_and_its_runtime() {
        let before = Before::new();
        let runtime = small_runtime();
        let (first, second, sender) = runtime.block_on(async {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            let mut received = Vec::new();
            for payload in [&b"first"[..], b"second"] {
                sender.send(payload).await.unwrap();
                received.push(receiver.recv().await.unwrap().expect("not drained"));
            }
            let second = received.pop().expect("two were received");
            (received.pop().expect("two were received"), second, sender)
        });
        drop(sender);
        drop(runtime);
        assert_eq!(&first[..], b"first");
        drop(first);
        assert_eq!(&second[..], b"second");
        drop(second);
        before.assert_nothing_leaked();
    }
}

mod wakers_and_timers {
    use super::*;

    /// A task that gives its waker away and waits for ever.
    async fn give_waker(to: mpsc::Sender<Waker>) {
        poll_fn(|cx| {
            to.send(cx.waker().clone()).unwrap();
            Poll::<()>::Pending
        })
        .await;
    }

    #[test]
    fn a_waker_outlives_its_runtime_and_is_woken_from_another_thread() {
        let before = Before::new();
        let runtime = small_runtime();
        let (give, wakers) = mpsc::channel();
        for _ in 0..10 {
            runtime.spawn(give_waker(give.clone()));
        }
        runtime.block_on(async {
            // The waker of block_on itself, too.
            let mut own = Box::pin(give_waker(give));
            poll_fn(|cx| {
                assert!(own.as_mut().poll(cx).is_pending());
                cx.waker().wake_by_ref();
                Poll::Ready(())
            })
            .await;
            yield_now().await;
        });
        drop(runtime);
        let wake = thread::spawn(move || wakers.iter().for_each(Waker::wake));
        wake.join().unwrap();
        before.assert_nothing_leaked();
    }

    /// Hangs when the end does not look for tasks in the inbox; aborts the process when a task is
    /// dropped by the thread that wakes it.
    #[test]
    fn wakes_from_another_thread_while_the_runtime_ends_harm_nothing() {
        let before = Before::new();
        let count = Alive::default();
        for _ in 0..100 {
            let runtime = small_runtime();
            let (give, wakers) = mpsc::channel();
            for _ in 0..10 {
                let (give, held) = (give.clone(), count.clone());
                runtime.spawn(async move {
                    let _held = held;
                    give_waker(give).await;
                });
            }
            drop(give);
            runtime.block_on(yield_now());
            let first: Vec<Waker> = wakers.try_iter().collect();
            assert_eq!(first.len(), 10);
            let over = Arc::new(AtomicBool::new(false));
            let waking = thread::spawn({
                let over = Arc::clone(&over);
                move || {
                    while !over.load(Ordering::Relaxed) {
                        first.iter().for_each(Waker::wake_by_ref);
                    }
                }
            });
            // Until it does wake them: they are polled again.
            runtime.block_on(async {
                while wakers.try_recv().is_err() {
                    yield_now().await;
                }
            });
            runtime.shutdown(Drain::default().deadline(Duration::from_millis(1)));
            assert_eq!(alive(&count), 0);
            over.store(true, Ordering::Relaxed);
            waking.join().unwrap();
        }
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_sleep_outlives_its_runtime() {
        let before = Before::new();
        let runtime = small_runtime();
        let mut outlives = Box::pin(sleep(Duration::from_secs(3600)));
        runtime.block_on(async { assert!(outlives.as_mut().now_or_never().is_none()) });
        drop(runtime);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outlives.as_mut().poll(&mut cx).is_pending());
        drop(outlives);
        before.assert_nothing_leaked();
    }
}

mod runtimes {
    use super::*;

    #[test]
    fn a_runtime_dropped_inside_a_task_of_another_drains_and_leaves_that_one_alone() {
        let before = Before::new();
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
            // And one that lives and dies here.
            drop(small_runtime());
            assert_eq!(received.get(), 10);
            // Gives 1 if it is the outer runtime's again.
            spawn(async { 1 }).await.unwrap()
        });
        assert_eq!(outer.block_on(task).unwrap(), 1);
        drop(outer);
        before.assert_nothing_leaked();
    }

    #[test]
    fn a_runtime_can_follow_another_and_hand_its_futures_over() {
        let before = Before::new();
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
        before.assert_nothing_leaked();
    }

    #[test]
    fn two_runtimes_on_two_threads_exchange_datagrams() {
        const COUNT: u64 = 10_000;
        let before = Before::new();
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
        before.assert_nothing_leaked();
    }

    #[test]
    fn two_hundred_runtimes_leave_nothing() {
        let before = Before::new();
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
        before.assert_nothing_leaked();
    }

    /// Pools have a test of their own, in `mapping.rs`. Fails when a ring's memory is given to
    /// forked children.
    #[test]
    fn rings_are_kept_from_forked_children() {
        let _alone = Before::new();
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
    }

    #[test]
    fn a_runtime_in_a_thread_local_ends_with_its_thread() {
        thread_local! {
            static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
        }
        let before = Before::new();
        let thread = thread::spawn(|| {
            RUNTIME.with_borrow_mut(|kept| {
                let runtime = kept.insert(small_runtime());
                runtime.spawn(pending::<()>());
                runtime.block_on(yield_now());
            });
        });
        thread.join().unwrap();
        before.assert_nothing_leaked();
    }
}
