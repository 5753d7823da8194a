//! A start that fails at each of its calls in turn. The error is clear, or another driver is used.
//! A runtime that starts works, and a failed start leaks nothing.

use std::net::SocketAddr;

use ebbtide::net::UnixAddr;
use ebbtide::{DriverChoice, RunningDriver, Runtime};
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::fault::{Fault, Manner, Tally, with_fault};
use ebbtide_testkit::seccomp::with_refused_if;
use ebbtide_testkit::{Watchdog, descriptor};

use crate::program;

const ERRNOS: [i32; 9] = [
    libc::EPERM,
    libc::EINVAL,
    libc::ENOMEM,
    libc::EAGAIN,
    libc::EINTR,
    libc::EBUSY,
    libc::EMFILE,
    libc::EFAULT,
    libc::EEXIST,
];

/// Starts a runtime of `choice` while the `k`-th call of `syscall` fails. If it starts, it runs the
/// program.
fn start(choice: DriverChoice, syscall: libc::c_long, k: u64, errno: i32) -> (Option<bool>, Tally) {
    let fault = Fault::once(syscall, k, Manner::Refuse(errno));
    with_fault(fault, || match Runtime::builder().driver(choice).buffers(64).build() {
        Ok(runtime) => {
            let on_ring = matches!(runtime.driver(), RunningDriver::IoUring { .. });
            let run = format!("{choice:?}, call {k} of {syscall} fails with {errno}");
            program::run_on::<UnixAddr>(runtime, k).check(&[errno], &run);
            Some(on_ring)
        }
        Err(error) => {
            assert!(
                error.to_string().contains("cannot start the "),
                "the error names no cause: {error}"
            );
            None
        }
    })
}

#[test]
fn a_start_that_fails_anywhere_is_told_or_does_without() {
    in_a_child(|| {
        let _watchdog = Watchdog::new("a start fails");
        // From now on the thread of the watchdog and the handler exist.
        start(DriverChoice::Auto, libc::SYS_io_uring_setup, 0, 0);
        let before = descriptor::count();
        for syscall in [
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_register,
            libc::SYS_io_uring_enter,
            libc::SYS_eventfd2,
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
        ] {
            for errno in ERRNOS {
                // The start makes the first enter, the program makes the others.
                let last = if syscall == libc::SYS_io_uring_enter { 1 } else { 2 };
                for k in 1..=last {
                    let (auto, _) = start(DriverChoice::Auto, syscall, k, errno);
                    let must_start = !matches!(syscall, libc::SYS_eventfd2);
                    let has_ring = Runtime::builder().driver(DriverChoice::IoUring).build().is_ok();
                    if must_start && has_ring {
                        assert!(auto.is_some(), "call {k} of {syscall}, errno {errno}");
                    }
                    start(DriverChoice::Epoll, syscall, k, errno);
                }
            }
        }
        assert_eq!(descriptor::count(), before, "descriptors leaked");
    });
}

/// The memory that a ring shares with the program is a mapping of its descriptor.
#[test]
fn a_ring_that_cannot_be_mapped_leaves_nothing_and_epoll_does() {
    in_a_child(|| {
        let _watchdog = Watchdog::new("a ring cannot be mapped");
        let before = descriptor::count();
        let descriptor = 0..=i32::MAX as u32;
        let on_ring = with_refused_if(libc::SYS_mmap, 4, descriptor, libc::EACCES, || {
            let runtime = Runtime::builder().driver(DriverChoice::Auto).build().unwrap();
            let on_ring = matches!(runtime.driver(), RunningDriver::IoUring { .. });
            program::run_on::<SocketAddr>(runtime, 1).check(&[], "the ring cannot be mapped");
            on_ring
        });
        assert!(!on_ring, "the mapping was not refused");
        assert_eq!(descriptor::count(), before, "descriptors leaked");
    });
}

/// The first failures are temporary, so the ring is not made smaller.
#[test]
fn a_start_that_lacks_memory_for_a_moment_gets_its_ring() {
    if Runtime::builder().driver(DriverChoice::IoUring).build().is_err() {
        return println!("skipped: io_uring is not available");
    }
    let _watchdog = Watchdog::new("a start lacks memory");
    for syscall in [libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_io_uring_enter]
    {
        let (on_ring, tally) = start(DriverChoice::IoUring, syscall, 1, libc::ENOMEM);
        assert_eq!((on_ring, tally.failures), (Some(true), 1));
        let fault = Fault::burst(syscall, 1, 20, Manner::Refuse(libc::ENOMEM));
        let (completion_entries, tally) = with_fault(fault, || {
            let runtime = Runtime::builder().driver(DriverChoice::IoUring).build().unwrap();
            let RunningDriver::IoUring { completion_entries, .. } = runtime.driver() else {
                panic!("a ring was requested");
            };
            program::run_on::<SocketAddr>(runtime, 1).check(&[], "memory was short");
            completion_entries
        });
        assert_eq!((completion_entries, tally.failures), (1024, 20), "the ring was made smaller");
    }
}
