//! The other calls on the path of a datagram fail: receiving by hand (epoll, and the drain on both
//! drivers), and telling epoll what to watch.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use ebbtide::net::{Address, DatagramSocket, UnixAddr};
use ebbtide::{Drain, DrainOutcome};
use ebbtide_testkit::fault::{Fault, Manner, with_fault};
use ebbtide_testkit::{Shape, Transport, Watchdog, on_every_shape};
use libc::{EBADF, ECONNREFUSED, EINTR, ENOBUFS, ENOMEM, ENOSPC};

use crate::{polling, program};

on_every_shape!(
    receives_that_are_interrupted_lose_nothing,
    receives_that_fail_are_told_once_each_and_lose_nothing,
    polls_that_are_interrupted_lose_nothing,
    thousands_of_errors_in_a_row_do_not_end_a_drain,
    a_socket_that_cannot_be_read_is_given_up_and_told,
    a_socket_that_was_given_up_can_be_drained_again,
    a_socket_that_cannot_be_looked_at_counts_as_abandoned,
);

const SAMPLE: [u64; 4] = [1, 2, 5, 50];

/// Runs the program with `fault`; each failure may be told to a receiver at most once, and only
/// with `errors`. How often it struck, and how many errors were told.
fn strike<T: Transport>(shape: Shape, fault: Fault, errors: &[i32]) -> (u64, u64) {
    let run = format!("{}, {}, {fault:?}", shape.name, std::any::type_name::<T>());
    let (told, tally) =
        with_fault(fault, || program::run::<T>(shape, fault.from).check(errors, &run));
    assert!(told <= tally.failures, "{run}: {told} errors for {tally:?}");
    (tally.failures, told)
}

/// The calls of `syscall` that a run makes from the first on, and each k-th.
fn strike_all(shape: Shape, syscall: libc::c_long, errno: i32, errors: &[i32]) -> (u64, u64) {
    let mut sum = (0, 0);
    let mut add = |(struck, told)| sum = (sum.0 + struck, sum.1 + told);
    for k in SAMPLE {
        let manner = Manner::Refuse(errno);
        add(strike::<UnixAddr>(shape, Fault::once(syscall, k, manner), errors));
        add(strike::<SocketAddr>(shape, Fault::once(syscall, k, manner), errors));
        if k > 1 {
            add(strike::<UnixAddr>(shape, Fault::every(syscall, k, manner), errors));
            add(strike::<SocketAddr>(shape, Fault::every(syscall, k, manner), errors));
        }
    }
    sum
}

/// Fails when `EINTR` ends the reading of a drain, or is told to a receiver.
fn receives_that_are_interrupted_lose_nothing(shape: Shape) {
    let _watchdog = Watchdog::new("receives are interrupted");
    let (struck, _) = strike_all(shape, libc::SYS_recvmmsg, EINTR, &[]);
    assert!(struck > 0);
}

/// Fails when an error ends the reading of a drain, or leaves a socket deaf.
fn receives_that_fail_are_told_once_each_and_lose_nothing(shape: Shape) {
    let _watchdog = Watchdog::new("receives fail");
    for errno in [ENOMEM, ENOBUFS] {
        let (struck, _) = strike_all(shape, libc::SYS_recvmmsg, errno, &[errno]);
        assert!(struck > 0);
    }
}

/// So many that one enter does not bring them all, and the drain has to read.
const SENT: u64 = 150;

/// A socket with `SENT` datagrams in its queue.
fn loaded<T: Transport>() -> (socket2::Socket, Rc<DatagramSocket<T>>) {
    let (sender, socket) = T::pair();
    (0..SENT).for_each(|_| assert_eq!(sender.send(b"queued").unwrap(), 6));
    (sender, Rc::new(T::open(socket)))
}

/// Counts what is received until the end; errors are of one kind only.
async fn count<A: Address>(socket: Rc<DatagramSocket<A>>, errno: i32, received: Rc<Cell<u64>>) {
    loop {
        match socket.recv().await {
            Ok(Some(_)) => received.set(received.get() + 1),
            Ok(None) => return,
            Err(error) => assert_eq!(error.raw_os_error(), Some(errno)),
        }
    }
}

/// As if ICMP answers came faster than the socket is read, for a while. Fails when some dozens of
/// errors in a row end the reading, or each of them waits in memory to be told.
fn thousands_of_errors_in_a_row_do_not_end_a_drain(shape: Shape) {
    fn pass<T: Transport>(shape: Shape) {
        let fault = Fault::burst(libc::SYS_recvmmsg, 1, 5_000, Manner::Refuse(ECONNREFUSED));
        let (report, tally) = with_fault(fault, || {
            let runtime = shape.runtime();
            let received: Rc<Cell<u64>> = Rc::default();
            let _sender = runtime.block_on(async {
                let (sender, socket) = loaded::<T>();
                ebbtide::spawn(count(socket, ECONNREFUSED, Rc::clone(&received)));
                sender
            });
            let report = runtime.shutdown(Drain::default());
            assert_eq!(received.get(), SENT, "{report}");
            report
        });
        assert_eq!((report.outcome, report.unread), (DrainOutcome::Complete, 0), "{report}");
        assert_eq!(tally.failures, 5_000);
        assert!((1..=3).contains(&report.stats.errors), "{}: {:?}", shape.name, report.stats);
    }
    let _watchdog = Watchdog::new("errors in a row");
    pass::<UnixAddr>(shape);
    pass::<SocketAddr>(shape);
}

/// Fails when the drain of such a socket does not end, or says that it is complete: whether its
/// receiver finds out, and whether the socket is gone by then.
fn a_socket_that_cannot_be_read_is_given_up_and_told(shape: Shape) {
    let _watchdog = Watchdog::new("reads that fail for good");
    for (from, is_kept) in [(1, false), (1, true), (2, false), (2, true)] {
        let fault = Fault::burst(libc::SYS_recvmmsg, from, u64::MAX, Manner::Refuse(EBADF));
        let (report, _) = with_fault(fault, || {
            let runtime = shape.runtime();
            let kept = runtime.block_on(async {
                let (sender, socket) = loaded::<SocketAddr>();
                ebbtide::spawn(count(Rc::clone(&socket), EBADF, Rc::default()));
                (sender, is_kept.then_some(socket))
            });
            let report = runtime.shutdown(Drain::default());
            drop(kept);
            report
        });
        assert_eq!((report.outcome, report.unread), (DrainOutcome::DeadlinePassed, 1), "{report}");
        assert!(report.to_string().contains("SOCKETS NOT READ TO THE END 1"), "{report}");
        assert!(report.stats.delivered < SENT, "{report}");
    }
}

/// Fails when a socket that was given up counts as read for ever.
fn a_socket_that_was_given_up_can_be_drained_again(shape: Shape) {
    let _watchdog = Watchdog::new("reads that fail for long");
    let fault = Fault::burst(libc::SYS_recvmmsg, 1, 65_600, Manner::Refuse(ENOMEM));
    let ((), tally) = with_fault(fault, || {
        let runtime = shape.runtime();
        runtime.block_on(async {
            let (_sender, socket) = loaded::<UnixAddr>();
            let error = socket.drain().expect_err("it cannot be read");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
            socket.drain().unwrap();
            let received: Rc<Cell<u64>> = Rc::default();
            count(socket, ENOMEM, Rc::clone(&received)).await;
            assert_eq!(received.get(), SENT);
        });
    });
    assert_eq!(tally.failures, 65_600);
}

/// Fails when a look that only fails counts as one at an empty queue.
fn a_socket_that_cannot_be_looked_at_counts_as_abandoned(shape: Shape) {
    let _watchdog = Watchdog::new("looks that fail for good");
    let fault = Fault::burst(libc::SYS_recvfrom, 1, u64::MAX, Manner::Refuse(ECONNREFUSED));
    let (report, tally) = with_fault(fault, || {
        let runtime = shape.runtime();
        drop(runtime.block_on(async { loaded::<SocketAddr>() }));
        runtime.shutdown(Drain::default())
    });
    assert!(tally.failures > 0);
    assert_eq!(report.stats.abandoned, 1, "{report}");
}

fn polls_that_are_interrupted_lose_nothing(shape: Shape) {
    let _watchdog = Watchdog::new("polls fail");
    strike_all(shape, polling::POLL, EINTR, &[]);
}

/// Fails when a socket that epoll does not know of is waited for. The first call that is spared is
/// that for the eventfd, without which there is no driver.
#[test]
fn what_epoll_cannot_watch_is_told_once_and_tried_again() {
    let _watchdog = Watchdog::new("epoll cannot watch");
    for errno in [ENOMEM, ENOSPC] {
        for k in [2, 3, 4, 5, 6, 7, 8] {
            let fault = Fault::once(libc::SYS_epoll_ctl, k, Manner::Refuse(errno));
            for (struck, _) in [
                strike::<UnixAddr>(Shape::EPOLL, fault, &[errno]),
                strike::<SocketAddr>(Shape::EPOLL, fault, &[errno]),
            ] {
                assert_eq!(struck, 1);
            }
        }
    }
}
