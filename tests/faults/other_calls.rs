//! The other calls on the path of a datagram fail: receiving by hand (epoll, and the drain on both
//! drivers), and telling epoll what to watch.

use std::net::SocketAddr;

use ebbtide::net::UnixAddr;
use libc::{EINTR, ENOBUFS, ENOMEM, ENOSPC};

use crate::faults::{Fault, Manner, Watchdog, with_fault};
use crate::program;
use crate::support::{Shape, Transport};

on_every_shape!(
    receives_that_are_interrupted_lose_nothing,
    receives_that_fail_are_told_once_each_and_lose_nothing,
    polls_that_are_interrupted_lose_nothing,
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

fn polls_that_are_interrupted_lose_nothing(shape: Shape) {
    let _watchdog = Watchdog::new("polls fail");
    strike_all(shape, libc::SYS_poll, EINTR, &[]);
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
