//! Panics stop at the task, and arrive as its result.

use std::cell::Cell;
use std::future::{Future, pending};
use std::io;
use std::panic::panic_any;
use std::rc::Rc;

use ebbtide::task::yield_now;
use ebbtide::{Drain, JoinError, Runtime, spawn};
use futures_util::future::join_all;

use super::{OnDrop, run, until};

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
