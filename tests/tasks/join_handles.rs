//! Join handles, as tokio has them: they give the result, detach, abort.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use ebbtide::task::yield_now;
use ebbtide::{Runtime, spawn};
use futures_util::future::{Either, select};

use super::{OnDrop, flag, run, until};

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
