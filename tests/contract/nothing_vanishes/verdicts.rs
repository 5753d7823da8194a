//! What a report and `run` say about datagrams that nobody received.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::UdpSocket;
use ebbtide::time::{interval, sleep};
use ebbtide::{Drain, DrainError, DrainOutcome, drain, drain_with, run, spawn, spawn_blocking};
use ebbtide_testkit::{Shape, on_every_shape, patient};
use futures_util::future::{Either, select};

use crate::queued::{send, socket_with};

on_every_shape!(
    a_task_that_drains_and_is_itself_the_receiver_is_told_so,
    a_task_that_receives_beside_its_drain_is_served,
    a_socket_that_is_dropped_with_datagrams_is_no_complete_drain,
    datagrams_that_nobody_asked_for_are_unclaimed,
    a_blocking_call_that_never_returns_is_an_error,
    what_is_left_in_a_long_queue_is_counted,
    what_only_the_kernel_has_is_not_forgotten_with_its_receiver,
    what_only_the_kernel_has_is_not_forgotten_where_the_program_goes_on,
);

const COUNT: usize = 300;

fn long_queue() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_recv_buffer_size(4 << 20).unwrap();
    send(COUNT, socket.local_addr().unwrap());
    socket
}

/// The usual form of servers for tokio: the loop ends, and then the same task drains. A tick is
/// always pending. Fails when the task waits for itself until the deadline, or when the outcome is
/// `Complete`.
fn a_task_that_drains_and_is_itself_the_receiver_is_told_so(shape: Shape) {
    let runtime = shape.runtime();
    let report = runtime.block_on(async {
        let socket = long_queue();
        let mut ticks = interval(Duration::from_millis(1));
        ticks.tick().await;
        for _ in 0..3 {
            match select(pin!(socket.recv()), pin!(sleep(Duration::from_secs(3_600)))).await {
                Either::Left((datagram, _)) => drop(datagram.unwrap().expect("not drained")),
                Either::Right(_) => unreachable!("the sleep takes an hour"),
            }
        }
        let report = drain_with(patient()).await;
        ticks.tick().await;
        report
    });
    assert_eq!(report.outcome, DrainOutcome::WaitsForItself, "{}: {report}", shape.name);
    assert!(report.undelivered > 0, "{report}");
    // The socket was dropped with the future, and the datagrams with the socket.
    let report = runtime.shutdown(patient());
    assert_eq!(report.outcome, DrainOutcome::Discarded, "{report}");
    let dropped = report.stats.dropped_by_kernel;
    assert_eq!(report.stats.received + dropped, COUNT as u64, "{report}");
    assert_eq!(report.stats.delivered + report.stats.discarded, report.stats.received, "{report}");
}

fn a_task_that_receives_beside_its_drain_is_served(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = long_queue();
        let receive = async {
            while let Some(_datagram) = socket.recv().await.unwrap() {
                ebbtide::task::yield_now().await;
            }
        };
        let (report, ()) = futures_util::future::join(drain_with(patient()), receive).await;
        assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Complete, 0), "{report}");
    });
}

/// Fails when the outcome is `Complete` although datagrams were discarded.
fn a_socket_that_is_dropped_with_datagrams_is_no_complete_drain(shape: Shape) {
    for seen in [false, true] {
        let runtime = shape.runtime();
        runtime.block_on(async {
            let socket = socket_with(2);
            while seen && socket.stats().received < 2 {
                ebbtide::task::yield_now().await;
            }
        });
        let report = runtime.shutdown(patient());
        assert_eq!(report.outcome, DrainOutcome::Discarded, "{report}");
        let stats = report.stats;
        assert!(stats.discarded == 2 || stats.abandoned == 1 && !seen, "{report}");
    }
}

fn datagrams_that_nobody_asked_for_are_unclaimed(shape: Shape) {
    let runtime = shape.runtime();
    let _kept = runtime.block_on(async { socket_with(2) });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Unclaimed, 2), "{report}");
    assert!(report.into_result().is_ok());
}

fn a_blocking_call_that_never_returns_is_an_error(shape: Shape) {
    let runtime = shape.runtime();
    let (returns, never) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        drop(spawn_blocking(move || never.recv()));
    });
    let report = runtime.shutdown(Drain::default().deadline(Duration::from_millis(1)));
    assert_eq!((report.outcome, report.unfinished), (DrainOutcome::DeadlinePassed, 1), "{report}");
    let error = io::Error::from(report.into_result().unwrap_err());
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(returns);
}

/// Fails when datagrams that are still in the kernel are not counted.
fn what_is_left_in_a_long_queue_is_counted(shape: Shape) {
    let runtime = shape.runtime();
    let kept = runtime.block_on(async { long_queue() });
    let report = runtime.shutdown(patient());
    let stats = report.stats;
    assert_eq!(report.undelivered + stats.dropped_by_kernel, COUNT as u64, "{report}");
    assert_eq!((stats.received, stats.discarded), (report.undelivered, 0), "{report}");
    assert_eq!(kept.stats().discarded, report.undelivered, "{report}");
}

/// The receiver takes the datagrams that were read, and ends. Fails when the kernel's queue is not
/// checked before the drain ends.
fn what_only_the_kernel_has_is_not_forgotten_with_its_receiver(shape: Shape) {
    let runtime = shape.runtime();
    let kept = runtime.block_on(async {
        let socket = Rc::new(long_queue());
        let receiver = Rc::clone(&socket);
        spawn(async move {
            let waiting = || receiver.stats().received - receiver.stats().delivered;
            while receiver.recv().await.unwrap().is_some() && waiting() > 0 {}
        });
        socket
    });
    let report = runtime.shutdown(patient());
    let stats = report.stats;
    assert_eq!(report.outcome, DrainOutcome::ReceiversGone, "{report}");
    let accounted = stats.delivered + report.undelivered + stats.dropped_by_kernel;
    assert_eq!(accounted, COUNT as u64, "{report}");
    drop(kept);
}

/// The receiver takes the datagrams that were read, and ends. Nothing is discarded, which would be
/// counted. Fails when the kernel's queue is not checked before the drain ends.
fn what_only_the_kernel_has_is_not_forgotten_where_the_program_goes_on(shape: Shape) {
    shape.runtime().block_on(async {
        let socket = Rc::new(long_queue());
        let receiver = Rc::clone(&socket);
        spawn(async move {
            let waiting = || receiver.stats().received - receiver.stats().delivered;
            while receiver.recv().await.unwrap().is_some() && waiting() > 0 {}
        });
        let report = drain_with(patient()).await;
        assert_eq!(report.outcome, DrainOutcome::ReceiversGone, "{}: {report}", shape.name);
        assert!(report.undelivered > 0, "{}: {report}", shape.name);
        while socket.recv().await.unwrap().is_some() {}
    });
}

/// The kind of the error of `run`, and the report in it.
fn error_of(result: io::Result<()>) -> (io::ErrorKind, DrainError) {
    let error = result.expect_err("a datagram was lost");
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<DrainError>());
    let drained = inner.unwrap_or_else(|| panic!("{error}")).clone();
    assert!(drained.source().is_none() && !drained.to_string().is_empty());
    (error.kind(), drained)
}

#[test]
fn run_is_an_error_over_a_socket_that_went_with_its_future() {
    let (kind, error) = error_of(run(async {
        let socket = long_queue();
        socket.recv().await?;
        Ok(())
    }));
    assert_eq!((kind, error.report().outcome), (io::ErrorKind::Other, DrainOutcome::Discarded));
}

#[test]
fn run_is_an_error_over_work_that_was_cut_off() {
    let (_, error) = error_of(run(async {
        let socket = socket_with(1);
        spawn(async move {
            let datagram = socket.recv().await.unwrap();
            spawn(async move {
                sleep(Duration::from_secs(3_600)).await;
                drop(datagram);
            });
        });
        Ok(())
    }));
    let report = error.report();
    assert_eq!(report.outcome, DrainOutcome::TasksAtWork);
    assert_eq!((report.tasks_at_work, report.in_hand), (1, 1), "{report}");
}

#[test]
fn run_is_fine_over_datagrams_that_nobody_asked_for() {
    let kept = Rc::new(std::cell::RefCell::new(None));
    let keep = Rc::clone(&kept);
    run(async move {
        *keep.borrow_mut() = Some(socket_with(1));
        io::Result::Ok(())
    })
    .unwrap();
    drop(kept);
}

/// The error of the program itself has precedence.
#[test]
fn run_returns_the_error_of_its_future() {
    let result: io::Result<()> = run(async {
        drop(socket_with(1));
        drain().await;
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    });
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
}
