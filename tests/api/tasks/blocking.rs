//! Blocking calls, which run on separate threads.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use ebbtide::net::UnixDatagram;
use ebbtide::task::yield_now;
use ebbtide::{Drain, DrainOutcome, Runtime, spawn, spawn_blocking};

use super::run;

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

/// Fails when the call does not delay the exit: its task is dropped then.
#[test]
fn the_exit_waits_for_a_blocking_call() {
    let runtime = Runtime::new().unwrap();
    let ended = Rc::new(Cell::new(false));
    runtime.block_on(async {
        let ended = Rc::clone(&ended);
        let (go_on, sealed) = mpsc::channel();
        let (_peer, socket) = UnixDatagram::pair().unwrap();
        // The call continues only after the shutdown has begun.
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

/// Fails when a call ends its thread, or cancels other calls.
#[test]
fn calls_that_panic_leave_the_threads_to_others() {
    run(async {
        let calls: Vec<_> = (0..100)
            .map(|number| {
                spawn_blocking(
                    move || if number % 2 == 0 { resume_unwind(Box::new(())) } else { number },
                )
            })
            .collect();
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.ok(), (number % 2 == 1).then_some(number));
        }
    });
}

/// The result of a call may be dropped on its thread, after the end of the runtime.
#[test]
fn a_result_that_nobody_takes_is_dropped() {
    struct Dropped(mpsc::Sender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    let (dropped, drops) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        drop(spawn_blocking(move || {
            let _ = released.recv();
            Dropped(dropped)
        }));
    });
    let report = runtime.shutdown(Drain::default().deadline(Duration::ZERO));
    assert_eq!(report.unfinished, 1, "{report}");
    release.send(()).unwrap();
    drops.recv().expect("the result was dropped, not leaked");
}
