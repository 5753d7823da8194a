//! The visits to the kernel fail: `io_uring_enter(2)`, or `epoll_wait(2)`.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ebbtide::net::UnixAddr;
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome};
use ebbtide_testkit::fault::{Fault, Manner, Tally, with_fault};
use ebbtide_testkit::{Shape, Transport, Watchdog, on_every_shape};
use libc::{EAGAIN, EBUSY, EINTR, ENOMEM};

use crate::{polling, program};

on_every_shape!(
    a_visit_that_fails_once_loses_nothing,
    visits_that_fail_again_and_again_lose_nothing,
    visits_that_fail_in_a_row_lose_nothing,
    a_driver_that_fails_for_good_panics_once,
    the_end_of_a_runtime_whose_driver_failed_tells_what_it_could_not_read,
);

/// The steps of the short form.
const SAMPLE: [u64; 5] = [1, 2, 7, 40, 200];
/// Those that come after the start, which tries an enter.
const RUNNING: [u64; 4] = [2, 7, 40, 200];
/// Those of the long form.
const ALL: std::ops::RangeInclusive<u64> = 1..=200;

/// Visits that fail in a row, where some do. One that may sleep is followed by a pause of 1 ms.
const ROW: u64 = 20;

/// All the ways in which a visit can fail without anything being wrong.
fn manners(visit: libc::c_long) -> &'static [Manner] {
    const RING: [Manner; 6] = [
        Manner::Refuse(EINTR),
        Manner::Refuse(EAGAIN),
        Manner::Refuse(EBUSY),
        Manner::Refuse(ENOMEM),
        Manner::RefuseAfterWork(EINTR),
        Manner::TakeHalf,
    ];
    match visit {
        libc::SYS_io_uring_enter => &RING,
        _ => &RING[..1],
    }
}

fn visit(shape: Shape) -> libc::c_long {
    if shape.has_ring() { libc::SYS_io_uring_enter } else { polling::EPOLL_WAIT }
}

/// Runs the program with `fault`; fails unless it loses nothing and the fault strikes.
fn strike<T: Transport>(shape: Shape, fault: Fault) -> Tally {
    let run = format!("{}, {}, {fault:?}", shape.name, std::any::type_name::<T>());
    let (_, tally) = with_fault(fault, || program::run::<T>(shape, fault.from).check(&[], &run));
    assert!(tally.failures > 0, "{run}: it is over after {} calls", tally.calls);
    tally
}

/// Runs the program on both transports, with every manner of failing at the steps `from`.
fn strike_all(
    shape: Shape,
    from: impl Iterator<Item = u64>,
    fault: fn(libc::c_long, u64, Manner) -> Fault,
) -> Tally {
    let visit = visit(shape);
    let mut sum = Tally::default();
    for k in from {
        for manner in manners(visit) {
            sum += strike::<UnixAddr>(shape, fault(visit, k, *manner));
            sum += strike::<SocketAddr>(shape, fault(visit, k, *manner));
        }
    }
    sum
}

fn in_a_row(visit: libc::c_long, k: u64, manner: Manner) -> Fault {
    Fault::burst(visit, k, ROW, manner)
}

/// Fails when an enter that took nothing is taken for done, or one that was interrupted for failed.
fn a_visit_that_fails_once_loses_nothing(shape: Shape) {
    let _watchdog = Watchdog::new("a visit fails once");
    strike_all(shape, SAMPLE.into_iter(), Fault::once);
}

fn visits_that_fail_again_and_again_lose_nothing(shape: Shape) {
    let _watchdog = Watchdog::new("visits fail again and again");
    strike_all(shape, SAMPLE.into_iter().filter(|k| *k > 1), Fault::every);
}

fn visits_that_fail_in_a_row_lose_nothing(shape: Shape) {
    let _watchdog = Watchdog::new("visits fail in a row");
    strike_all(shape, [1, 130].into_iter(), in_a_row);
}

#[test]
#[ignore = "the long form: every step, a few minutes in release"]
fn a_failure_at_every_step_loses_nothing() {
    let _watchdog = Watchdog::with_patience("every step", Duration::from_secs(3_600));
    for shape in Shape::ALL {
        let runs = [
            ("once", strike_all(shape, ALL, Fault::once)),
            ("each k-th", strike_all(shape, ALL.skip(1), Fault::every)),
            ("20 in a row", strike_all(shape, ALL, in_a_row)),
        ];
        for (what, tally) in runs {
            println!("{}: k = 1..200, {what}: {tally:?}", shape.name);
        }
    }
}

/// The one loss that can only be reported, is: the kernel had no memory to keep a completion. Here
/// it only says so, and nothing else may be lost by what follows.
#[test]
fn a_completion_that_the_kernel_lost_is_reported() {
    let shape = Shape::DEFAULT;
    if !shape.has_ring() {
        return println!("skipped: there is no ring here");
    }
    let _watchdog = Watchdog::new("a completion is lost");
    for k in RUNNING {
        let fault = Fault::once(libc::SYS_io_uring_enter, k, Manner::Refuse(libc::EBADR));
        let (report, _) = with_fault(fault, || {
            let mut finished = program::run::<SocketAddr>(shape, k);
            finished.check(&[], "EBADR");
            finished.report
        });
        assert_eq!(report.completions_lost, 1, "{report}");
        assert!(report.to_string().contains("COMPLETIONS LOST"), "{report}");
    }
}

/// A ring that fails for a reason that no ring recovers from says so in a panic; the unwinding
/// drains what can be drained.
#[test]
fn a_ring_that_breaks_panics_with_its_reason() {
    let shape = Shape::DEFAULT;
    if !shape.has_ring() {
        return println!("skipped: there is no ring here");
    }
    let _watchdog = Watchdog::new("a ring breaks");
    for k in RUNNING {
        let fault = Fault::once(libc::SYS_io_uring_enter, k, Manner::Refuse(libc::EFAULT));
        let (panic, tally) = with_fault(fault, || {
            catch_unwind(|| drop(program::run::<UnixAddr>(shape, k))).expect_err("it broke")
        });
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(message.contains("io_uring driver failed: Bad address"), "{message}");
        assert_eq!(tally.failures, 1);
    }
}

/// A sandbox that is put on later, for example. Fails when what the unwinding drops, sockets and
/// the runtime, enters again and panics for it: the process then aborts.
fn a_driver_that_fails_for_good_panics_once(shape: Shape) {
    let _watchdog = Watchdog::new("a driver fails for good");
    for k in RUNNING {
        for errno in [libc::EFAULT, libc::EPERM, libc::ENOSYS] {
            let fault = Fault::burst(visit(shape), k, u64::MAX, Manner::Refuse(errno));
            let (panic, tally) = with_fault(fault, || {
                catch_unwind(|| drop(program::run::<SocketAddr>(shape, k))).expect_err("it failed")
            });
            let message = panic.downcast_ref::<String>().expect("a message");
            let reason = io::Error::from_raw_os_error(errno).to_string();
            assert!(message.contains(" driver failed: ") && message.contains(&reason), "{message}");
            assert!(tally.failures > 1, "the unwinding was not struck");
        }
    }
}

/// Fails when the end of a runtime whose failure the program has caught panics as well, or passes
/// for complete over what it could not read.
fn the_end_of_a_runtime_whose_driver_failed_tells_what_it_could_not_read(shape: Shape) {
    let _watchdog = Watchdog::new("a driver fails before the end");
    let fault = Fault::burst(visit(shape), 20, u64::MAX, Manner::Refuse(libc::EPERM));
    let (report, _) = with_fault(fault, || {
        let runtime = shape.runtime();
        let (sender, socket) = UnixAddr::pair();
        let socket = runtime.block_on(async { UnixAddr::open(socket) });
        for _again in 0..2 {
            let turns = || {
                runtime.block_on(async {
                    // Each enters the kernel to sleep.
                    for _ in 0..100 {
                        sleep(Duration::from_millis(1)).await;
                    }
                });
            };
            let panic = catch_unwind(AssertUnwindSafe(turns)).expect_err("it failed");
            let message = panic.downcast_ref::<String>().expect("a message");
            assert!(message.contains(" driver failed: "), "{message}");
        }
        sender.send(&[1]).unwrap();
        let report = runtime.shutdown(Drain::default());
        drop(socket);
        report
    });
    if shape.has_ring() {
        assert_eq!((report.outcome, report.unread), (DrainOutcome::DeadlinePassed, 1), "{report}");
    } else {
        // What epoll would have said was readable is read all the same.
        assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Unclaimed, 1), "{report}");
    }
}

/// A kernel that refuses for good ends no program by itself; but the end of a program ends, and
/// tells what it could not get back and not read. Takes three times the limit of a reap, 5 seconds.
///
/// Fails when a receive that is not given back counts as one that was (the drain was then told to
/// be complete, with a datagram in the queue).
#[test]
#[ignore = "the long form: it waits for 15 seconds"]
fn a_shutdown_under_a_kernel_that_refuses_for_good_ends_and_tells() {
    let shape = Shape::DEFAULT;
    if !shape.has_ring() {
        return println!("skipped: there is no ring here");
    }
    let _watchdog = Watchdog::new("every visit fails");
    let fault = Fault::burst(libc::SYS_io_uring_enter, 2, u64::MAX, Manner::Refuse(ENOMEM));
    let (report, tally) = with_fault(fault, || {
        let runtime = shape.runtime();
        let sender = runtime.block_on(async {
            let (sender, socket) = UnixAddr::pair();
            let socket = UnixAddr::open(socket);
            yield_now().await; // The receive is in flight.
            sender.send(&[1]).unwrap();
            ebbtide::spawn(async move { while let Ok(Some(_)) = socket.recv().await {} });
            for _ in 0..10 {
                yield_now().await;
            }
            sender
        });
        let report = runtime.shutdown(Drain::default());
        drop(sender);
        report
    });
    println!("{tally:?}: {report}");
    assert_eq!((report.outcome, report.unread), (DrainOutcome::DeadlinePassed, 1), "{report}");
    assert!(report.operations_leaked > 0, "{report}");
    assert!(report.to_string().contains("SOCKETS NOT READ TO THE END 1"), "{report}");
}

/// As above, but it comes to its senses: what one drain could not read, the next one does.
#[test]
#[ignore = "the long form: it waits for 5 seconds"]
fn a_socket_whose_drain_timed_out_can_be_drained_again() {
    let shape = Shape::DEFAULT;
    if !shape.has_ring() {
        return println!("skipped: there is no ring here");
    }
    let _watchdog = Watchdog::new("visits fail for 5 seconds");
    // One call arms, each of the others is followed by a pause of a millisecond.
    let fault = Fault::burst(libc::SYS_io_uring_enter, 2, 7_000, Manner::Refuse(ENOMEM));
    with_fault(fault, || {
        let runtime = shape.runtime();
        runtime.block_on(async {
            let (sender, socket) = UnixAddr::pair();
            let socket = UnixAddr::open(socket);
            yield_now().await;
            (0..10).for_each(|number| assert_eq!(sender.send(&[number]).unwrap(), 1));
            let error = socket.drain().expect_err("the kernel refuses");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
            for _ in 0..5 {
                match socket.drain() {
                    Ok(()) => break,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}"),
                }
            }
            for number in 0..10 {
                assert_eq!(socket.recv().await.unwrap().expect("it is queued")[..], [number]);
            }
            assert!(socket.recv().await.unwrap().is_none());
        });
    });
}
