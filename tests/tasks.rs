//! Tasks: join handles as tokio has them, panics that stop at the task, wakes from other threads,
//! blocking calls, timers, and nobody who starves.

#[macro_use]
mod support;

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::hint::black_box;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::{sleep, sleep_until, timeout};
use ebbtide::{Drain, DrainOutcome, Handle, JoinError, Runtime, spawn, spawn_blocking};
use futures_util::future::{Either, join_all, select};
use futures_util::task::AtomicWaker;
use support::{Random, Shape, unique_name};

on_every_shape!(
    every_wake_from_other_threads_arrives,
    a_task_is_woken_from_its_sleep_ten_thousand_times,
    the_future_of_block_on_is_woken_from_its_sleep_ten_thousand_times,
    an_endless_stream_of_datagrams_starves_neither_timers_nor_other_sockets,
);

/// Runs `future` on a runtime of its own.
fn run<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(future)
}

/// A flag that several tasks share.
fn flag() -> (Rc<Cell<bool>>, Rc<Cell<bool>>) {
    let flag = Rc::new(Cell::new(false));
    (Rc::clone(&flag), flag)
}

/// Sets its flag, or panics, when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

mod join_handles {
    use super::*;

    #[test]
    fn a_handle_gives_the_result() {
        assert_eq!(run(async { spawn(async { 6 * 7 }).await.unwrap() }), 42);
    }

    #[test]
    fn a_task_runs_without_being_awaited_and_after_its_handle_is_dropped() {
        run(async {
            let (ran, set) = flag();
            drop(spawn(async move {
                yield_now().await;
                set.set(true);
            }));
            until(|| ran.get()).await;
        });
    }

    #[test]
    fn a_task_spawned_before_block_on_runs_in_it() {
        let runtime = Runtime::new().unwrap();
        let task = runtime.spawn(async { 1 });
        assert!(!task.is_finished());
        assert_eq!(runtime.block_on(task).unwrap(), 1);
    }

    #[test]
    fn an_aborted_task_is_dropped_and_its_handle_says_cancelled() {
        run(async {
            let (dropped, set) = flag();
            let task = spawn(async move {
                let _guard = OnDrop(|| set.set(true));
                pending::<()>().await;
            });
            yield_now().await;
            task.abort();
            let error = task.await.unwrap_err();
            assert!(error.is_cancelled() && !error.is_panic());
            assert_eq!(error.to_string(), "the task was cancelled");
            assert!(dropped.get(), "its future lives on");
        });
    }

    #[test]
    fn a_task_aborted_before_its_first_poll_never_runs() {
        run(async {
            let (ran, set) = flag();
            let task = spawn(async move { set.set(true) });
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            assert!(!ran.get());
        });
    }

    #[test]
    fn a_ready_task_that_is_aborted_is_not_polled_again() {
        run(async {
            let polls = Rc::new(Cell::new(0));
            let counted = Rc::clone(&polls);
            // Always ready: it wakes itself in each poll.
            let task = spawn(poll_fn(move |cx| {
                counted.set(counted.get() + 1);
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            }));
            until(|| polls.get() > 0).await;
            task.abort();
            let before = polls.get();
            assert!(task.await.unwrap_err().is_cancelled());
            assert_eq!(polls.get(), before);
        });
    }

    #[test]
    fn a_task_that_aborts_itself_goes_on_to_its_next_await() {
        run(async {
            let handle = Rc::new(RefCell::new(None::<ebbtide::JoinHandle<()>>));
            let (reached, set) = flag();
            let own = Rc::clone(&handle);
            let task = spawn(async move {
                own.borrow().as_ref().expect("set before it ran").abort();
                set.set(true);
                yield_now().await;
                unreachable!("it was aborted");
            });
            handle.borrow_mut().replace(task);
            until(|| handle.borrow().as_ref().is_some_and(|task| task.is_finished())).await;
            assert!(reached.get());
            let task = handle.take().expect("set above");
            assert!(task.await.unwrap_err().is_cancelled());
        });
    }

    /// Fails when `abort` does not look whether the task has ended: the second task has its place.
    #[test]
    fn a_task_that_has_ended_keeps_its_result_and_its_abort_hits_no_other() {
        run(async {
            let ended = spawn(async { 1 });
            until(|| ended.is_finished()).await;
            let other = spawn(async {
                yield_now().await;
                2
            });
            ended.abort();
            assert_eq!((ended.await.unwrap(), other.await.unwrap()), (1, 2));
        });
    }

    #[test]
    fn is_finished_is_true_exactly_after_the_end() {
        run(async {
            let (go_on, set) = flag();
            let task = spawn(async move { until(|| go_on.get()).await });
            for _ in 0..10 {
                yield_now().await;
                assert!(!task.is_finished());
            }
            set.set(true);
            until(|| task.is_finished()).await;
            task.await.unwrap();
        });
    }

    #[test]
    fn a_handle_awaited_by_reference_in_a_select_keeps_its_result() {
        run(async {
            let (go_on, set) = flag();
            let mut task = spawn(async move {
                until(|| go_on.get()).await;
                "result"
            });
            for _ in 0..100 {
                match select(&mut task, pin!(yield_now())).await {
                    Either::Left(_) => panic!("it cannot have ended"),
                    Either::Right(_) => {}
                }
            }
            set.set(true);
            assert_eq!(task.await.unwrap(), "result");
        });
    }

    #[test]
    fn tasks_spawn_tasks() {
        fn nested(depth: usize) -> std::pin::Pin<Box<dyn Future<Output = usize>>> {
            Box::pin(async move {
                match depth {
                    0 => 0,
                    _ => 1 + spawn(nested(depth - 1)).await.unwrap(),
                }
            })
        }
        assert_eq!(run(nested(1000)), 1000);
    }

    #[test]
    fn wakes_before_a_poll_lead_to_one_poll() {
        run(async {
            let polls = Rc::new(Cell::new(0));
            let counted = Rc::clone(&polls);
            let waker = Rc::new(RefCell::new(None));
            let kept = Rc::clone(&waker);
            let _task = spawn(poll_fn(move |cx| {
                counted.set(counted.get() + 1);
                kept.replace(Some(cx.waker().clone()));
                Poll::<()>::Pending
            }));
            until(|| polls.get() == 1).await;
            for _ in 0..3 {
                waker.borrow().as_ref().expect("it was polled").wake_by_ref();
            }
            for _ in 0..3 {
                yield_now().await;
            }
            assert_eq!(polls.get(), 2);
        });
    }
}

mod panics {
    use super::*;

    fn error_of(task: impl Future<Output = ()> + 'static) -> JoinError {
        run(async { spawn(task).await.unwrap_err() })
    }

    #[test]
    fn a_panic_arrives_with_its_message_and_its_payload() {
        let error = error_of(async { panic!("a plain message") });
        assert!(error.is_panic() && !error.is_cancelled());
        assert_eq!(error.to_string(), "the task panicked: a plain message");
        assert_eq!(error.into_panic().downcast_ref(), Some(&"a plain message"));

        let error = error_of(async { panic!("number {}", 7) });
        assert_eq!(error.to_string(), "the task panicked: number 7");

        let error = error_of(async { panic_any(7u8) });
        assert_eq!(error.to_string(), "the task panicked");
        assert_eq!(error.try_into_panic().unwrap().downcast_ref(), Some(&7u8));
    }

    #[test]
    fn a_join_error_becomes_an_io_error_that_says_the_same() {
        let error = io::Error::from(error_of(async { panic!("why") }));
        assert_eq!(error.kind(), io::ErrorKind::Other);
        assert_eq!(error.to_string(), "the task panicked: why");
    }

    #[test]
    fn a_cancelled_task_has_no_payload() {
        let error = run(async {
            let task = spawn(pending::<()>());
            task.abort();
            task.await.unwrap_err()
        });
        assert!(error.try_into_panic().unwrap_err().is_cancelled());
    }

    #[test]
    fn a_panic_harms_no_other_task() {
        run(async {
            let tasks = (0..100).map(|number| {
                spawn(async move {
                    yield_now().await;
                    assert!(number % 2 == 0, "it is odd");
                    number
                })
            });
            let results = join_all(tasks.collect::<Vec<_>>()).await;
            for (number, result) in results.into_iter().enumerate() {
                assert_eq!(result.ok(), (number % 2 == 0).then_some(number));
            }
        });
    }

    fn panics_when_dropped() -> OnDrop<impl FnMut()> {
        OnDrop(|| panic!("while being dropped"))
    }

    #[test]
    fn a_destructor_that_panics_at_the_end_of_its_task_is_told_to_the_handle() {
        let task = error_of(async {
            let guard = panics_when_dropped();
            drop(guard);
        });
        assert_eq!(task.to_string(), "the task panicked: while being dropped");
    }

    #[test]
    fn a_destructor_that_panics_when_its_task_is_aborted_stops_there() {
        run(async {
            let task = spawn(async {
                let _guard = panics_when_dropped();
                pending::<()>().await;
            });
            yield_now().await;
            task.abort();
            assert!(task.await.is_err());
            assert_eq!(spawn(async { 1 }).await.unwrap(), 1);
        });
    }

    #[test]
    fn destructors_that_panic_at_the_end_of_the_runtime_stop_there() {
        let runtime = Runtime::new().unwrap();
        let dropped = Rc::new(Cell::new(0));
        for _ in 0..10 {
            let dropped = Rc::clone(&dropped);
            runtime.spawn(async move {
                let _guard = OnDrop(|| {
                    dropped.set(dropped.get() + 1);
                    panic!("while being dropped");
                });
                pending::<()>().await;
            });
        }
        runtime.block_on(yield_now());
        let report = runtime.shutdown(Drain::default());
        assert_eq!((dropped.get(), report.tasks_dropped), (10, 10));
    }

    /// As in tokio: nobody took the result, and nobody can be told.
    #[test]
    fn a_result_that_panics_when_it_is_dropped_with_its_detached_task_stops_there() {
        run(async {
            drop(spawn(async { panics_when_dropped() }));
            yield_now().await;
            assert_eq!(spawn(async { 1 }).await.unwrap(), 1);
        });
    }

    /// As in tokio.
    #[test]
    fn a_result_that_panics_when_it_is_dropped_with_its_handle_stops_there() {
        run(async {
            let task = spawn(async { panics_when_dropped() });
            until(|| task.is_finished()).await;
            drop(task);
            assert_eq!(spawn(async { 1 }).await.unwrap(), 1);
        });
    }
}

mod places {
    use super::*;

    fn message_of(result: thread::Result<()>) -> String {
        let panic = result.expect_err("it must panic");
        panic.downcast::<String>().map_or_else(
            |panic| (*panic.downcast::<&str>().expect("a message")).to_owned(),
            |message| *message,
        )
    }

    #[test]
    fn block_on_inside_a_runtime_panics_and_says_what_to_do_instead() {
        run(async {
            for runtime in [Runtime::new().unwrap(), Runtime::new().unwrap()] {
                let nested = spawn(async move { runtime.block_on(async {}) });
                let error = nested.await.unwrap_err();
                assert!(error.to_string().contains("inside a runtime"), "{error}");
                assert!(error.to_string().contains("await the future, or spawn it"), "{error}");
            }
            assert_eq!(spawn(async { 1 }).await.unwrap(), 1, "the outer runtime goes on");
        });
    }

    #[test]
    fn outside_a_runtime_there_is_no_handle() {
        let assert_outside = || {
            let error = Handle::try_current().expect_err("no runtime is entered");
            assert!(error.to_string().contains("Runtime::block_on"), "{error}");
            let message = message_of(catch_unwind(|| drop(spawn(async {}))));
            assert!(message.contains("Runtime::block_on"), "{message}");
        };
        assert_outside();
        let runtime = Runtime::new().unwrap();
        assert_outside();
        runtime.block_on(async { Handle::try_current().map(drop) }).unwrap();
        assert_outside();
        let panicking = AssertUnwindSafe(|| runtime.block_on(async { panic!("inside") }));
        assert_eq!(message_of(catch_unwind(panicking)), "inside");
        assert_outside();
        drop(runtime);
        assert_outside();
    }

    #[test]
    fn tasks_go_on_from_one_block_on_to_the_next() {
        let runtime = Runtime::new().unwrap();
        let (count, counted) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let both = (Rc::clone(&count), Rc::clone(&counted));
        runtime.spawn(async move {
            loop {
                until(|| both.0.get() > both.1.get()).await;
                both.1.set(both.0.get());
            }
        });
        for round in 1..=10 {
            count.set(round);
            runtime.block_on(until(|| counted.get() == round));
        }
    }
}

/// Lets other tasks run until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..1_000_000 {
        if condition() {
            return;
        }
        yield_now().await;
    }
    panic!("it never came true");
}

/// Permits that other threads hand out and one task takes. Nothing but the task's waker tells it.
#[derive(Default)]
struct Permits {
    left: AtomicUsize,
    waker: AtomicWaker,
}

impl Permits {
    fn give(&self) {
        self.left.fetch_add(1, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Takes all there are, at least one.
    async fn take(&self) -> usize {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            match self.left.swap(0, Ordering::SeqCst) {
                0 => Poll::Pending,
                taken => Poll::Ready(taken),
            }
        })
        .await
    }
}

/// Fails when a wake is lost.
fn every_wake_from_other_threads_arrives(shape: Shape) {
    const TASKS: usize = 8;
    const THREADS: usize = 4;
    const WAKES: usize = 100_000 / THREADS;
    let runtime = shape.runtime();
    let permits: Arc<[Permits]> = (0..TASKS).map(|_| Permits::default()).collect();
    let taken = Rc::new(Cell::new(0));
    for number in 0..TASKS {
        let (permits, taken) = (Arc::clone(&permits), Rc::clone(&taken));
        runtime.spawn(async move {
            loop {
                let more = permits[number].take().await;
                taken.set(taken.get() + more);
            }
        });
    }
    let threads: Vec<_> = (0..THREADS as u64)
        .map(|seed| {
            let permits = Arc::clone(&permits);
            thread::spawn(move || {
                let mut random = Random::new(seed);
                for _ in 0..WAKES {
                    permits[random.within(0..=TASKS - 1)].give();
                }
            })
        })
        .collect();
    runtime.block_on(async {
        let all_given = spawn_blocking(move || {
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        all_given.await.unwrap();
        until(|| taken.get() == THREADS * WAKES).await;
    });
}

const ROUNDS: usize = 10_000;

/// A thread answers each ball with a permit, after a pause so short that it often falls into the
/// moment between the last look for work and the sleep. Hangs when a wake is lost.
async fn ping_pong() -> usize {
    let permits = Arc::new(Permits::default());
    let balls = Arc::new(AtomicUsize::new(0));
    let opponent = thread::spawn({
        let (permits, balls) = (Arc::clone(&permits), Arc::clone(&balls));
        move || {
            for round in 1..=ROUNDS {
                while balls.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                }
                (0..round % 512).for_each(|pause| _ = black_box(pause));
                permits.give();
            }
        }
    });
    let mut taken = 0;
    for round in 1..=ROUNDS {
        balls.store(round, Ordering::Release);
        taken += permits.take().await;
    }
    opponent.join().unwrap();
    taken
}

/// Hangs when the runtime goes to sleep without a look into the inbox after it has said so.
fn a_task_is_woken_from_its_sleep_ten_thousand_times(shape: Shape) {
    let runtime = shape.runtime();
    let task = runtime.spawn(ping_pong());
    assert_eq!(runtime.block_on(task).unwrap(), ROUNDS);
    let turns = runtime.metrics().turns;
    assert!(turns < 10 * ROUNDS as u64, "it does not sleep but spin: {turns} turns");
}

/// Hangs when it goes to sleep without a look whether that future was woken.
fn the_future_of_block_on_is_woken_from_its_sleep_ten_thousand_times(shape: Shape) {
    let runtime = shape.runtime();
    assert_eq!(runtime.block_on(ping_pong()), ROUNDS);
    let turns = runtime.metrics().turns;
    assert!(turns < 10 * ROUNDS as u64, "it does not sleep but spin: {turns} turns");
}

mod blocking {
    use super::*;

    #[test]
    fn a_blocking_call_gives_its_result_or_its_panic() {
        run(async {
            assert_eq!(spawn_blocking(|| 6 * 7).await.unwrap(), 42);
            let error = spawn_blocking(|| panic!("over there")).await.unwrap_err();
            assert_eq!(error.to_string(), "the task panicked: over there");
        });
    }

    #[test]
    fn many_blocking_calls_end_each_with_its_own_result() {
        run(async {
            let calls: Vec<_> = (0..1000).map(|number| spawn_blocking(move || number)).collect();
            for (number, call) in calls.into_iter().enumerate() {
                assert_eq!(call.await.unwrap(), number);
            }
        });
    }

    #[test]
    fn a_blocking_call_starts_while_the_task_holds_the_thread() {
        run(async {
            let (started, starts) = mpsc::channel();
            let call = spawn_blocking(move || started.send(()).unwrap());
            starts.recv().unwrap();
            call.await.unwrap();
        });
    }

    /// Fails when the call does not hold up the exit: its task is dropped instead.
    #[test]
    fn the_exit_waits_for_a_blocking_call() {
        let runtime = Runtime::new().unwrap();
        let ended = Rc::new(Cell::new(false));
        runtime.block_on(async {
            let ended = Rc::clone(&ended);
            let (go_on, sealed) = mpsc::channel();
            let (_peer, socket) = UnixDatagram::pair().unwrap();
            // The call goes on only when the shutdown has begun.
            spawn(async move {
                assert!(socket.recv().await.unwrap().is_none());
                go_on.send(()).unwrap();
            });
            spawn(async move {
                let call = spawn_blocking(move || {
                    sealed.recv().unwrap();
                    thread::sleep(Duration::from_millis(20));
                });
                call.await.unwrap();
                ended.set(true);
            });
            yield_now().await;
        });
        let report = runtime.shutdown(Drain::default());
        assert!(ended.get(), "{report}");
        assert_eq!((report.unfinished, report.tasks_dropped), (0, 0), "{report}");
        assert_eq!(report.outcome, DrainOutcome::Complete);
    }

    #[test]
    fn the_exit_waits_for_a_blocking_call_up_to_the_deadline_only() {
        let runtime = Runtime::new().unwrap();
        let (release, released) = mpsc::channel::<()>();
        let ended = Arc::new(AtomicBool::new(false));
        runtime.block_on(async {
            let ended = Arc::clone(&ended);
            drop(spawn_blocking(move || {
                let _ = released.recv();
                ended.store(true, Ordering::SeqCst);
            }));
        });
        let report = runtime.shutdown(Drain::default().deadline(Duration::from_millis(20)));
        assert!(!ended.load(Ordering::SeqCst));
        assert_eq!(report.unfinished, 1, "{report}");
        assert_eq!(report.outcome, DrainOutcome::DeadlinePassed, "{report}");
        assert!(report.to_string().contains("operations unfinished 1"), "{report}");
        release.send(()).unwrap();
    }

    #[test]
    fn aborting_a_blocking_call_that_runs_has_no_effect() {
        run(async {
            let (started, starts) = mpsc::channel();
            let (release, released) = mpsc::channel();
            let call = spawn_blocking(move || {
                started.send(()).unwrap();
                released.recv().unwrap();
                "result"
            });
            starts.recv().unwrap();
            call.abort();
            yield_now().await;
            release.send(()).unwrap();
            assert_eq!(call.await.unwrap(), "result");
        });
    }
}

mod time {
    use super::*;

    #[test]
    fn sleeps_end_in_the_order_of_their_deadlines() {
        let order = run(async {
            let start = Instant::now();
            let order = Rc::new(RefCell::new(Vec::new()));
            let tasks: Vec<_> = [7u64, 3, 11, 1, 5, 9, 2, 0, 40, 20]
                .map(|ms| {
                    let order = Rc::clone(&order);
                    spawn(async move {
                        let deadline = start + Duration::from_millis(ms);
                        sleep_until(deadline).await;
                        assert!(Instant::now() >= deadline, "early");
                        order.borrow_mut().push(ms);
                    })
                })
                .into();
            join_all(tasks).await.into_iter().for_each(|ended| ended.unwrap());
            order.take()
        });
        assert!(order.is_sorted(), "{order:?}");
    }

    #[test]
    fn a_timeout_around_recv_loses_nothing() {
        run(async {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            for number in 0..100u8 {
                assert!(timeout(Duration::from_millis(1), receiver.recv()).await.is_err());
                sender.send(&[number]).await.unwrap();
                let datagram = timeout(Duration::from_secs(600), receiver.recv()).await;
                assert_eq!(datagram.unwrap().unwrap().expect("not drained")[..], [number]);
            }
            assert_eq!(receiver.stats().delivered, 100);
        });
    }
}

mod fairness {
    use super::*;

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
