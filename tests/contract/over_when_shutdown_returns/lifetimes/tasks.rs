//! Tasks and their handles.

use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide::{Drain, DrainOutcome, JoinHandle, spawn};
use ebbtide_testkit::leaks::leaves_nothing;
use futures_util::FutureExt;

use super::{Alive, alive, small_runtime};

#[test]
fn a_task_that_panics_leaves_nothing() {
    leaves_nothing(|| {
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
    });
}

#[test]
fn a_task_that_waits_for_ever_is_dropped_at_the_end_without_delay() {
    leaves_nothing(|| {
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
        // Hangs for a long time if the end waits for these tasks.
        let report = runtime.shutdown(Drain::default().deadline(Duration::from_secs(3600)));
        assert_eq!((alive(&count), report.tasks_dropped), (0, 10));
        assert_eq!(report.outcome, DrainOutcome::Complete);
    });
}

#[test]
fn a_deadline_may_be_out_of_reach() {
    leaves_nothing(|| {
        let report = small_runtime().shutdown(Drain::default().deadline(Duration::MAX));
        assert_eq!(report.outcome, DrainOutcome::Complete);
    });
}

#[test]
fn a_task_that_is_busy_for_ever_is_dropped_at_the_deadline() {
    leaves_nothing(|| {
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
    });
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
    leaves_nothing(|| {
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
                let handle = handles.borrow_mut().pop().expect("a task was spawned");
                assert!(!handle.is_finished());
                handle.abort();
                assert!(handle.await.is_err());
                handles.borrow_mut().extend((0..spawned).map(|_| spawn(async {})));
            }
        });
        handles.borrow_mut().clear();
        assert_eq!(alive(&count), 0);
    });
}

#[test]
fn what_a_destructor_spawns_at_the_end_is_cancelled() {
    leaves_nothing(|| {
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
            let result = handle.now_or_never().expect("the task has ended");
            assert!(result.unwrap_err().is_cancelled());
        }
    });
}

#[test]
fn a_join_handle_outlives_its_runtime() {
    leaves_nothing(|| {
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
    });
}

#[test]
fn a_handle_outlives_its_runtime() {
    leaves_nothing(|| {
        let runtime = small_runtime();
        let handle = runtime.handle().clone();
        drop(runtime);
        let task = handle.spawn(async { unreachable!("nobody polls it") });
        assert!(task.now_or_never().unwrap().unwrap_err().is_cancelled());
        drop(handle);
    });
}
