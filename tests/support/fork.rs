//! Forked children: copies of the test's process, with the thread that forks alone. For tests in a
//! process of their own, where no other thread can hold a lock meanwhile.

// UNSAFETY: fork, kill and waitpid have no safe form.
#![expect(unsafe_code, reason = "argued above")]
#![allow(unreachable_pub, reason = "it is a module of each test binary")]
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a child is made.
#[derive(Clone, Copy, Debug)]
pub enum Fork {
    /// By fork(3).
    Libc,
    /// By the system call alone: no handler of libc runs.
    Kernel,
}

impl Fork {
    /// 0 in the child, and the child's id in its parent.
    pub fn fork(self) -> libc::pid_t {
        let id = match self {
            // SAFETY: takes nothing; the child is a copy of a process with one busy thread.
            Self::Libc => unsafe { libc::fork() },
            // SAFETY: without flags it is fork; the child goes on where the parent does.
            Self::Kernel => unsafe {
                libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as libc::pid_t
            },
        };
        assert!(id >= 0, "{}", io::Error::last_os_error());
        id
    }
}

/// A forked child.
#[must_use]
pub struct Child(libc::pid_t);

impl Child {
    /// Runs `body` in a child, and ends that.
    pub fn new(body: impl FnOnce()) -> Self {
        Self::made_by(Fork::Libc, body)
    }

    pub fn made_by(fork: Fork, body: impl FnOnce()) -> Self {
        match fork.fork() {
            0 => end(catch_unwind(AssertUnwindSafe(body)).is_ok()),
            id => Self(id),
        }
    }

    /// The child that a call of [`Fork::fork`] has made.
    pub fn of(id: libc::pid_t) -> Self {
        Self(id)
    }

    pub fn send(&self, signal: i32) {
        // SAFETY: takes numbers, of a child of ours that nobody has waited for.
        assert_eq!(unsafe { libc::kill(self.0, signal) }, 0);
    }

    /// Waits for its end, which has to be a good one.
    pub fn join(self) {
        let mut status = 0;
        // SAFETY: as above; the status lives until the call returns.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        assert_eq!(status, 0, "the child failed; its signal: {}", libc::WTERMSIG(status));
    }
}

/// Ends a child, without anything of its parent's.
pub fn end(passed: bool) -> ! {
    // SAFETY: takes a number.
    unsafe { libc::_exit(i32::from(!passed)) }
}
