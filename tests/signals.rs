//! Signals, each test in a process of its own, because they hit the whole process.

// UNSAFETY: raising a signal has no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::thread;

use ebbtide::signal::{ctrl_c, terminate};
use ebbtide::task::yield_now;
use ebbtide::{Drain, Runtime, spawn};
use futures_util::FutureExt;
use libc::{SIGINT, SIGTERM};

/// Sends a signal to this process. The handler has run when it returns, which `kill` does not say.
fn send(signal: i32) {
    // SAFETY: takes a number.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// Sends a signal when this thread sleeps, or is about to.
fn send_from_another_thread(signal: i32) {
    thread::spawn(move || send(signal)).join().unwrap();
}

/// Runs `body` in a process of its own: this test, started again, alone.
fn in_a_child(test: &str, body: impl Future<Output = io::Result<()>>) {
    if let Some((status, said)) = end_of_child(test, body) {
        assert!(status.success() && said.contains("1 passed"), "{status}: {said}");
    }
}

/// How the child ended, and what it said. `None` in the child itself.
fn end_of_child(
    test: &str,
    body: impl Future<Output = io::Result<()>>,
) -> Option<(ExitStatus, String)> {
    const CHILD: &str = "EBBTIDE_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        ebbtide::run(body).unwrap();
        return None;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args([test, "--exact", "--nocapture"]).env(CHILD, "").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Some((output.status, said.into_owned()))
}

#[test]
fn terminate_completes_on_sigterm_and_on_sigint_again_and_again() {
    in_a_child("terminate_completes_on_sigterm_and_on_sigint_again_and_again", async {
        for signal in [SIGTERM, SIGINT, SIGTERM, SIGINT] {
            let mut terminated = terminate();
            assert!((&mut terminated).now_or_never().is_none(), "nothing was sent yet");
            send_from_another_thread(signal);
            terminated.await?;
        }
        Ok(())
    });
}

#[test]
fn ctrl_c_completes_on_sigint_again_and_again() {
    in_a_child("ctrl_c_completes_on_sigint_again_and_again", async {
        for _ in 0..4 {
            let mut interrupted = ctrl_c();
            assert!((&mut interrupted).now_or_never().is_none(), "nothing was sent yet");
            send(SIGINT);
            interrupted.await?;
        }
        Ok(())
    });
}

#[test]
fn ctrl_c_leaves_sigterm_alone() {
    let end = end_of_child("ctrl_c_leaves_sigterm_alone", async {
        let interrupted = ctrl_c();
        send(SIGTERM);
        interrupted.await
    });
    let (status, said) = end.expect("the child does not get here");
    assert_eq!(status.signal(), Some(SIGTERM), "{status}: {said}");
}

#[test]
fn a_signal_between_the_call_and_the_first_poll_is_seen() {
    in_a_child("a_signal_between_the_call_and_the_first_poll_is_seen", async {
        let terminated = terminate();
        send(SIGTERM);
        terminated.await
    });
}

#[test]
fn one_signal_reaches_all_that_wait() {
    in_a_child("one_signal_reaches_all_that_wait", async {
        let waiting: Vec<_> = (0..10).map(|_| spawn(terminate())).collect();
        let also_waiting = spawn(ctrl_c());
        yield_now().await;
        send(SIGINT);
        for task in waiting {
            task.await??;
        }
        also_waiting.await?
    });
}

#[test]
fn a_signal_wakes_a_runtime_that_sleeps() {
    in_a_child("a_signal_wakes_a_runtime_that_sleeps", async {
        for _ in 0..1000 {
            let terminated = terminate();
            let sender = thread::spawn(|| send(SIGTERM));
            terminated.await?;
            sender.join().unwrap();
        }
        Ok(())
    });
}

/// Fails when a dropped future leaves its handler behind, or its descriptors.
#[test]
fn a_dropped_future_listens_no_more() {
    in_a_child("a_dropped_future_listens_no_more", async {
        // The first brings up what stays: the handlers of the process.
        drop(terminate());
        let before = descriptors();
        for poll in [false, true] {
            for _ in 0..100 {
                let mut terminated = terminate();
                if poll {
                    assert!((&mut terminated).now_or_never().is_none());
                }
            }
        }
        // The cancelled operations hold their descriptors until their final completions.
        for _ in 0..1000 {
            yield_now().await;
        }
        assert_eq!(descriptors(), before);
        send(SIGTERM);
        let mut next = terminate();
        for _ in 0..1000 {
            assert!((&mut next).now_or_never().is_none(), "the signal came before");
            yield_now().await;
        }
        Ok(())
    });
}

#[test]
fn a_future_that_waits_does_not_hold_up_the_exit_and_outlives_it() {
    in_a_child("a_future_that_waits_does_not_hold_up_the_exit_and_outlives_it", async {
        let result = thread::spawn(|| {
            let runtime = Runtime::new().unwrap();
            let mut outlives = terminate();
            runtime.block_on(async {
                assert!((&mut outlives).now_or_never().is_none());
                spawn(async { terminate().await });
                yield_now().await;
            });
            let report = runtime.shutdown(Drain::default());
            assert_eq!((report.unfinished, report.tasks_dropped), (0, 1), "{report}");
            send(SIGTERM);
            drop(outlives);
        });
        result.join().unwrap();
        Ok(())
    });
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
