//! Panics stop at the task, and become its result.

use std::cell::Cell;
use std::future::{Future, pending};
use std::io;
use std::panic::{panic_any, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use ebbtide::net::UnixDatagram;
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, JoinError, Runtime, spawn, spawn_blocking};
use ebbtide_testkit::until;
use futures_util::FutureExt;
use futures_util::future::join_all;

use super::{OnDrop, flag, run};

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
                assert!(number % 2 == 0, "the number is odd");
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

/// As in tokio, the panic is dropped. Nobody took the result, so it cannot be reported.
#[test]
fn a_result_that_panics_when_it_is_dropped_with_its_detached_task_stops_there() {
    run(async {
        drop(spawn(async { panics_when_dropped() }));
        yield_now().await;
        assert_eq!(spawn(async { 1 }).await.unwrap(), 1);
    });
}

/// As in tokio, the panic is dropped.
#[test]
fn a_result_that_panics_when_it_is_dropped_with_its_handle_stops_there() {
    run(async {
        let task = spawn(async { panics_when_dropped() });
        until(|| task.is_finished()).await;
        drop(task);
        assert_eq!(spawn(async { 1 }).await.unwrap(), 1);
    });
}

/// Panics when it is dropped. The payload of that panic does so again.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        resume_unwind(Box::new(Bomb));
    }
}

/// Fails, by an abort, when a payload is dropped without catching its panic.
#[test]
fn a_payload_whose_destructor_panics_ends_nothing() {
    fn blast() {
        resume_unwind(Box::new(Bomb))
    }

    run(async {
        drop(spawn(async { blast() }));
        let kept = spawn(async { blast() });
        until(|| kept.is_finished()).await;
        drop(kept);
        drop(spawn(async { blast() }).await);
        // In the destructors of a future that ends, of one that is aborted, and of a result.
        drop(spawn(async {
            let _bomb = Bomb;
            yield_now().await;
        }));
        let aborted = spawn(async {
            let _bomb = Bomb;
            pending::<()>().await;
        });
        yield_now().await;
        aborted.abort();
        assert!(aborted.await.is_err());
        drop(spawn(async { Bomb }));
        // On another thread.
        drop(spawn_blocking(blast).await);
        drop(spawn_blocking(blast));
        drop(spawn_blocking(|| Bomb));
        assert_eq!(spawn_blocking(|| "goes on").await.unwrap(), "goes on");
        for _ in 0..10 {
            yield_now().await;
        }
        // At the end of the runtime.
        drop(spawn(async {
            let _bomb = Bomb;
            pending::<()>().await;
        }));
        yield_now().await;
    });
}

/// A waker that panics when it is woken or dropped.
struct Alarm;

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new("woken"));
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        resume_unwind(Box::new("dropped"));
    }
}

/// Fails, by an abort or a lost wake-up, when a waker that panics affects others.
#[test]
fn wakers_that_panic_take_no_others_with_them() {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        let receiver = Rc::new(receiver);
        let (release, released) = flag();
        // Each of these waits, with the alarm, for one event that the runtime wakes for.
        let mut joined = spawn({
            let released = Rc::clone(&released);
            async move { until(|| released.get()).await }
        });
        // Longer than it takes to poll all of them once.
        const MOMENT: Duration = Duration::from_millis(50);
        let mut slept = Box::pin(sleep(MOMENT));
        let mut received = receiver.recv();
        let mut called = spawn_blocking(|| ());
        let alarm = Waker::from(Arc::new(Alarm));
        let mut cx = Context::from_waker(&alarm);
        assert!(Pin::new(&mut joined).poll(&mut cx).is_pending());
        assert!(slept.as_mut().poll(&mut cx).is_pending());
        assert!(Pin::new(&mut received).poll(&mut cx).is_pending());
        let _ = Pin::new(&mut called).poll(&mut cx);
        std::mem::forget(alarm);
        // Beside each, a task waits for the same event.
        let others = [
            spawn(sleep(MOMENT).map(drop)),
            spawn({
                let receiver = Rc::clone(&receiver);
                async move { drop(receiver.recv().await) }
            }),
        ];
        yield_now().await;
        for _ in 0..2 {
            sender.send(b"for both").await.unwrap();
        }
        release.set(true);
        for other in others {
            other.await.unwrap();
        }
        until(|| joined.is_finished() && called.is_finished()).await;
        drop((joined, slept, called));
        assert!(received.await.unwrap().is_some());
    });
    let report = runtime.shutdown(Drain::default());
    assert_eq!(report.undelivered, 0, "{report}");
}
