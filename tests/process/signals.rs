//! Signals. Each test runs in a separate process, because signals are sent to the whole process.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::sync::mpsc;
use std::thread;

use ebbtide::net::UdpSocket;
use ebbtide::signal::{ctrl_c, drain_on_terminate, terminate};
use ebbtide::task::yield_now;
use ebbtide::{Drain, DrainOutcome, DriverChoice, Runtime, spawn};
use ebbtide_testkit::child::{End, end_of_child, run_in_a_child};
use ebbtide_testkit::descriptor;
use ebbtide_testkit::fork::Child;
use ebbtide_testkit::signal::send;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use libc::{SIGINT, SIGTERM};

/// Sends a signal to another thread, before this one goes to sleep.
fn send_from_another_thread(signal: i32) {
    thread::spawn(move || send(signal)).join().unwrap();
}

#[test]
fn terminate_completes_on_sigterm_and_on_sigint_again_and_again() {
    run_in_a_child(async {
        for signal in [SIGTERM, SIGINT, SIGTERM, SIGINT] {
            let mut terminated = terminate();
            assert!((&mut terminated).now_or_never().is_none(), "no signal was sent yet");
            send_from_another_thread(signal);
            terminated.await?;
        }
        Ok(())
    });
}

#[test]
fn ctrl_c_completes_on_sigint_again_and_again() {
    run_in_a_child(async {
        for _ in 0..4 {
            let mut interrupted = ctrl_c();
            assert!((&mut interrupted).now_or_never().is_none(), "no signal was sent yet");
            send(SIGINT);
            interrupted.await?;
        }
        Ok(())
    });
}

#[test]
fn ctrl_c_leaves_sigterm_alone() {
    let end = end_of_child(async {
        let interrupted = ctrl_c();
        send(SIGTERM);
        interrupted.await
    });
    let End { status, output } = end.expect("the child does not get here");
    assert_eq!(status.signal(), Some(SIGTERM), "{status}: {output}");
}

#[test]
fn a_signal_between_the_call_and_the_first_poll_is_seen() {
    run_in_a_child(async {
        let terminated = terminate();
        send(SIGTERM);
        terminated.await
    });
}

#[test]
fn one_signal_reaches_all_that_wait() {
    run_in_a_child(async {
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
    run_in_a_child(async {
        for _ in 0..1000 {
            let terminated = terminate();
            let sender = thread::spawn(|| send(SIGTERM));
            terminated.await?;
            sender.join().unwrap();
        }
        Ok(())
    });
}

/// Fails when each future, or each runtime, takes a descriptor for good.
#[test]
fn futures_and_runtimes_that_listen_leave_nothing_behind() {
    run_in_a_child(async {
        let wait_in_vain = || assert!(terminate().now_or_never().is_none(), "no signal was sent");
        let in_another_runtime = || {
            thread::spawn(move || Runtime::new().unwrap().block_on(async { wait_in_vain() }))
                .join()
                .unwrap();
        };
        // The first ones open what stays.
        wait_in_vain();
        in_another_runtime();
        let before = descriptor::count();
        for _ in 0..100 {
            drop(terminate());
            wait_in_vain();
            in_another_runtime();
        }
        assert_eq!(descriptor::count(), before);
        Ok(())
    });
}

/// Fails when a signal is lost that comes while no future exists, or while one exists that is then
/// dropped.
#[test]
fn what_came_while_nobody_waited_completes_the_next_future_once() {
    run_in_a_child(async {
        for (signal, wait) in
            [(SIGTERM, terminate as fn() -> _), (SIGINT, terminate), (SIGINT, ctrl_c)]
        {
            drop(wait());
            send(signal);
            assert!(wait().now_or_never().is_some(), "signal {signal} came before");
            assert!(wait().now_or_never().is_none(), "signal {signal} was reported");

            let mut waits = wait();
            assert!((&mut waits).now_or_never().is_none());
            send(signal);
            drop(waits);
            wait().await?;
            assert!(wait().now_or_never().is_none(), "signal {signal} was reported");
        }
        Ok(())
    });
}

/// The usual form of servers. Fails when the signal has to come again.
#[test]
fn one_signal_ends_a_loop_that_makes_a_future_in_each_turn() {
    fn run(driver: DriverChoice) {
        Runtime::builder().driver(driver).build().unwrap().block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            drop(terminate());
            for turn in 0..100_000 {
                // There is always something to receive, so no future is awaited for long.
                socket.send_to(b"load", address).await.unwrap();
                if turn == 100 {
                    send(SIGTERM);
                }
                match select(terminate(), pin!(socket.recv())).await {
                    Either::Left((terminated, _)) => return terminated.unwrap(),
                    Either::Right((received, _)) => assert!(received.unwrap().is_some()),
                }
            }
            panic!("the loop did not get the signal");
        });
    }
    run_in_a_child(async {
        for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
            thread::spawn(move || run(driver)).join().unwrap();
        }
        Ok(())
    });
}

/// Fails when the first runtime takes the signal from the others, whose loops have made new futures
/// since.
#[test]
fn every_runtime_is_told_whatever_it_awaits_just_then() {
    run_in_a_child(async {
        const RUNTIMES: usize = 4;
        let (listening, all_listen) = mpsc::channel();
        let (told, is_told) = mpsc::channel();
        let mut may_go_on = Vec::new();
        let threads: Vec<_> = (0..RUNTIMES)
            .map(|number| {
                let (listening, told) = (listening.clone(), told.clone());
                let (go_on, wait) = mpsc::channel();
                may_go_on.push(go_on);
                thread::spawn(move || {
                    Runtime::new().unwrap().block_on(async {
                        assert!(terminate().now_or_never().is_none());
                        listening.send(()).unwrap();
                        // It computes and has no future when the signal comes and the others get
                        // it.
                        wait.recv().unwrap();
                        terminate().await.unwrap();
                        told.send(number).unwrap();
                        assert!(terminate().now_or_never().is_none(), "the signal comes twice");
                    });
                })
            })
            .collect();
        for _ in 0..RUNTIMES {
            all_listen.recv().unwrap();
        }
        send(SIGTERM);
        for (number, go_on) in may_go_on.into_iter().enumerate() {
            go_on.send(()).unwrap();
            assert_eq!(is_told.recv().unwrap(), number);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        Ok(())
    });
}

/// For programs that stop at once at the second signal. Fails when a signal is reported twice, or
/// when two that come together are reported as more.
#[test]
fn a_second_signal_can_be_waited_for() {
    run_in_a_child(async {
        let first = terminate();
        send(SIGTERM);
        send(SIGINT);
        send(SIGTERM);
        first.await?;
        let mut second = terminate();
        for _ in 0..100 {
            assert!((&mut second).now_or_never().is_none(), "both signals were reported before");
            yield_now().await;
        }
        send_from_another_thread(SIGTERM);
        second.await
    });
}

/// Fails when the error has only a kind, and no errno.
#[test]
fn an_error_of_listening_keeps_its_number() {
    run_in_a_child(async {
        let files = descriptor::use_up();
        let error = terminate().await.expect_err("no descriptor is left");
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
        drop(files);
        // A signal that came is not lost by the error.
        send(SIGTERM);
        terminate().await
    });
}

/// Fails when both share a pipe or an eventfd.
#[test]
fn a_signal_of_a_child_is_none_of_its_parent() {
    run_in_a_child(async {
        let mut terminated = terminate();
        assert!((&mut terminated).now_or_never().is_none());
        for signal in [SIGTERM, SIGINT] {
            Child::new(|| send(signal)).join();
            for _ in 0..100 {
                assert!(
                    (&mut terminated).now_or_never().is_none(),
                    "{signal} was sent to the child"
                );
                yield_now().await;
            }
        }
        assert!(terminate().now_or_never().is_none(), "the signal was sent to the child");
        send(SIGTERM);
        terminated.await
    });
}

/// Fails when the child wakes the runtime of its parent instead of its own, or starts with the
/// signals of its parent.
#[test]
fn a_child_is_told_its_own_signals_in_a_runtime_of_its_own() {
    run_in_a_child(async {
        assert!(terminate().now_or_never().is_none());
        let made_before = terminate();
        send(SIGTERM);
        let child = Child::new(|| {
            let (ready, is_ready) = mpsc::channel();
            let sender = thread::spawn(move || {
                is_ready.recv().unwrap();
                send(SIGTERM);
            });
            Runtime::new().unwrap().block_on(async {
                assert!(terminate().now_or_never().is_none(), "the signal was sent to the parent");
                ready.send(()).unwrap();
                terminate().await.unwrap();
                // A signal that came before the child had a runtime.
                send(SIGINT);
                made_before.await.unwrap();
            });
            sender.join().unwrap();
        });
        child.join();
        terminate().await
    });
}

/// The handler is inherited. Fails when the child, which listens as its parent did, loses a signal
/// that comes before it has a runtime.
#[test]
fn what_comes_to_a_child_before_it_has_a_runtime_is_kept() {
    run_in_a_child(async {
        drop(terminate());
        let (reader, writer) = io::pipe()?;
        let mut writer = Some(writer);
        let child = Child::new(|| {
            // Nothing is written. The read ends when the parent has sent the signal.
            writer = None;
            assert_eq!((&reader).read(&mut [0]).unwrap(), 0);
            Runtime::new().unwrap().block_on(terminate()).unwrap();
        });
        child.send(SIGTERM);
        drop(writer);
        child.join();
        assert!(terminate().now_or_never().is_none(), "the signal was sent to the child");
        Ok(())
    });
}

#[test]
fn a_future_that_waits_does_not_hold_up_the_exit_and_outlives_it() {
    run_in_a_child(async {
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

/// The form of the server in the README, in a task and in the main future.
#[test]
fn a_server_that_drains_on_terminate_receives_all_that_is_queued() {
    run_in_a_child(async {
        let drained = drain_on_terminate()?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let sender = std::net::UdpSocket::bind("127.0.0.1:0")?;
        for _ in 0..100 {
            sender.send_to(b"queued", socket.local_addr()?)?;
        }
        send(SIGTERM);
        let mut received = 0;
        while let Some(_datagram) = socket.recv().await? {
            received += 1;
        }
        let report = drained.await?;
        assert_eq!((received, report.outcome), (100, DrainOutcome::Complete), "{report}");
        Ok(())
    });
}

/// The receiver never comes back. Fails when the second signal waits for the deadline, or when what
/// was discarded is not counted.
#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let Some(End { status, output }) = end_of_child(async {
        let drained = drain_on_terminate()?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let sender = std::net::UdpSocket::bind("127.0.0.1:0")?;
        for _ in 0..100 {
            sender.send_to(b"queued", socket.local_addr()?)?;
        }
        spawn(async move {
            socket.recv().await.unwrap();
            std::future::pending::<()>().await;
        });
        yield_now().await;
        send(SIGTERM);
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(!drained.is_finished(), "the drain waits for the receiver");
        send(SIGINT);
        drop(drained.await);
        unreachable!("the second signal ends the program");
    }) else {
        return;
    };
    assert!(!status.success() && output.contains("undelivered 99"), "{status}: {output}");
}

/// Fails when `run` waits for a main future that does not end.
#[test]
fn a_second_signal_ends_run() {
    let Some(End { status, output }) = end_of_child(async {
        drain_on_terminate()?;
        send(SIGTERM);
        for _ in 0..10 {
            yield_now().await;
        }
        send(SIGTERM);
        std::future::pending::<()>().await;
        Ok(())
    }) else {
        return;
    };
    assert!(!status.success() && output.contains("second signal"), "{status}: {output}");
}
