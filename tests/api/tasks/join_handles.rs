//! Join handles, as in tokio: they return the result, detach, abort.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{JoinHandle, Runtime, spawn};
use ebbtide_testkit::until;
use futures_util::future::{Either, LocalBoxFuture, select};

use super::{OnDrop, flag, run};

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
        assert!(dropped.get(), "its future was not dropped");
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
        // Always ready, because it wakes itself in each poll.
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
            own.borrow().as_ref().expect("the handle is set before the task runs").abort();
            set.set(true);
            yield_now().await;
            unreachable!("the task was aborted");
        });
        handle.borrow_mut().replace(task);
        until(|| handle.borrow().as_ref().is_some_and(|task| task.is_finished())).await;
        assert!(reached.get());
        let task = handle.take().expect("the handle was set");
        assert!(task.await.unwrap_err().is_cancelled());
    });
}

/// What the handle of an aborted task returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Cancelled,
    Panicked,
    Result,
}

/// The handle of a task, for itself and for others.
type Own = Rc<RefCell<Option<JoinHandle<()>>>>;

fn abort(own: &Own) {
    own.borrow().as_ref().expect("the handle is set before the task runs").abort();
}

thread_local! {
    /// The handle of the task that `AbortsWhenWoken` aborts.
    static ABORTED_BY_WAKER: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// A waker that aborts a task.
struct AbortsWhenWoken;

impl Wake for AbortsWhenWoken {
    fn wake(self: Arc<Self>) {
        let own =
            ABORTED_BY_WAKER.take().expect("the waker is woken once, on the thread of the task");
        abort(&own);
    }
}

/// A task that is aborted in some state, and its end.
struct Aborted {
    state: &'static str,
    end: End,
    task: fn(Own) -> LocalBoxFuture<'static, ()>,
    /// What other tasks do after the task was spawned and before it runs.
    others: fn(Own) -> LocalBoxFuture<'static, ()>,
}

fn nothing(_: Own) -> LocalBoxFuture<'static, ()> {
    Box::pin(async {})
}

fn waits(_: Own) -> LocalBoxFuture<'static, ()> {
    Box::pin(pending())
}

/// How an aborted task ends, by the state in which it is aborted. This is what tokio does.
const ABORTED: &[Aborted] = &[
    Aborted {
        state: "before its first poll",
        end: End::Cancelled,
        task: waits,
        others: |own| Box::pin(async move { abort(&own) }),
    },
    Aborted {
        state: "twice",
        end: End::Cancelled,
        task: waits,
        others: |own| {
            Box::pin(async move {
                abort(&own);
                yield_now().await;
                abort(&own);
            })
        },
    },
    Aborted {
        state: "while it waits, by another task",
        end: End::Cancelled,
        task: waits,
        others: |own| {
            Box::pin(async move {
                yield_now().await;
                spawn(async move { abort(&own) }).await.unwrap();
            })
        },
    },
    Aborted {
        state: "while it waits, by a task of a runtime inside its own",
        end: End::Cancelled,
        task: waits,
        others: |own| {
            Box::pin(async move {
                yield_now().await;
                let inner = Runtime::new().unwrap();
                inner.spawn(async move { abort(&own) });
                drop(inner);
            })
        },
    },
    Aborted {
        state: "while it waits, by a waker",
        end: End::Cancelled,
        task: waits,
        others: |own| {
            Box::pin(async move {
                yield_now().await;
                ABORTED_BY_WAKER.set(Some(own));
                let waker = Waker::from(Arc::new(AbortsWhenWoken));
                let mut sleep = Box::pin(sleep(Duration::from_millis(1)));
                let mut cx = Context::from_waker(&waker);
                while sleep.as_mut().poll(&mut cx).is_pending() {
                    yield_now().await;
                }
                // The machine was so slow that the sleep never had to wait.
                if let Some(own) = ABORTED_BY_WAKER.take() {
                    abort(&own);
                }
            })
        },
    },
    Aborted {
        state: "after it was woken",
        end: End::Cancelled,
        task: |own| {
            Box::pin(async move {
                let waker = Rc::new(Cell::new(None));
                let stored = Rc::clone(&waker);
                spawn(async move {
                    until(|| {
                        let known = waker.take();
                        known.map(Waker::wake).is_some()
                    })
                    .await;
                    abort(&own);
                });
                let mut polls = 0;
                poll_fn(move |cx| {
                    polls += 1;
                    assert_eq!(polls, 1, "the task was aborted");
                    stored.set(Some(cx.waker().clone()));
                    Poll::Pending
                })
                .await
            })
        },
        others: nothing,
    },
    Aborted {
        state: "in its first poll, before it waits",
        end: End::Cancelled,
        task: |own| {
            Box::pin(async move {
                abort(&own);
                pending().await
            })
        },
        others: nothing,
    },
    Aborted {
        state: "in its second poll, before it waits",
        end: End::Cancelled,
        task: |own| {
            Box::pin(async move {
                yield_now().await;
                abort(&own);
                pending().await
            })
        },
        others: nothing,
    },
    Aborted {
        state: "in a destructor that its poll runs",
        end: End::Cancelled,
        task: |own| {
            Box::pin(async move {
                drop(OnDrop(|| abort(&own)));
                pending().await
            })
        },
        others: nothing,
    },
    Aborted {
        state: "in its last poll",
        end: End::Result,
        task: |own| Box::pin(async move { abort(&own) }),
        others: nothing,
    },
    Aborted {
        state: "in a poll that panics",
        end: End::Panicked,
        task: |own| {
            Box::pin(async move {
                abort(&own);
                panic!("on purpose");
            })
        },
        others: nothing,
    },
    Aborted {
        state: "in the destructor of its future, which has ended",
        end: End::Result,
        task: |own| {
            let guard = OnDrop(move || abort(&own));
            Box::pin(poll_fn(move |_| {
                let _held = &guard;
                Poll::Ready(())
            }))
        },
        others: nothing,
    },
    Aborted {
        state: "in the destructor of its future, which was aborted",
        end: End::Cancelled,
        task: |own| {
            let guard = OnDrop(move || abort(&own));
            Box::pin(poll_fn(move |_| {
                let _held = &guard;
                Poll::Pending
            }))
        },
        others: |own| Box::pin(async move { abort(&own) }),
    },
    Aborted {
        state: "when it has ended",
        end: End::Result,
        task: nothing,
        others: |own| {
            Box::pin(async move {
                until(|| own.borrow().as_ref().is_some_and(JoinHandle::is_finished)).await;
                abort(&own);
            })
        },
    },
];

/// Fails when `abort` has no effect in some state, or too much effect.
#[test]
fn abort_takes_effect_from_every_state() {
    for aborted in ABORTED {
        run(async {
            let own = Own::default();
            let (dropped, set) = flag();
            let future = (aborted.task)(Rc::clone(&own));
            let guard = OnDrop(move || set.set(true));
            let task = spawn(async move {
                let _guard = guard;
                future.await;
            });
            own.replace(Some(task));
            (aborted.others)(Rc::clone(&own)).await;
            until(|| own.borrow().as_ref().is_some_and(JoinHandle::is_finished)).await;
            assert!(dropped.get(), "{}: its future was not dropped", aborted.state);
            let task = own.take().expect("the handle was set");
            let end = match task.await {
                Ok(()) => End::Result,
                Err(error) if error.is_cancelled() => End::Cancelled,
                Err(_) => End::Panicked,
            };
            assert_eq!(end, aborted.end, "{}", aborted.state);
        });
    }
}

#[test]
fn a_task_that_was_aborted_ends_also_when_its_handle_is_dropped() {
    run(async {
        let (dropped, set) = flag();
        let task = spawn(async move {
            let _guard = OnDrop(|| set.set(true));
            pending::<()>().await;
        });
        yield_now().await;
        task.abort();
        drop(task);
        until(|| dropped.get()).await;
    });
}

/// Fails when `abort` does not check whether the task has ended, because a second task has its
/// slot.
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
                Either::Left(_) => panic!("the task cannot have ended"),
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
            waker.borrow().as_ref().expect("the future was polled").wake_by_ref();
        }
        for _ in 0..3 {
            yield_now().await;
        }
        assert_eq!(polls.get(), 2);
    });
}
