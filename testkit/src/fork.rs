//! Forked children. They are copies of the test process, with only the thread that forks. For tests
//! in a separate process, where no other thread can hold a lock at that time.

// UNSAFETY: fork, kill, waitpid and mmap have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// How a child is made.
#[derive(Clone, Copy, Debug)]
pub enum Fork {
    /// With fork(3).
    Libc,
    /// With the system call, so no handler of libc runs.
    Kernel,
}

impl Fork {
    /// Returns 0 in the child, and the child's id in its parent.
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
#[derive(Debug)]
pub struct Child(libc::pid_t);

impl Child {
    /// Runs `body` in a child, and ends the child.
    pub fn new(body: impl FnOnce()) -> Self {
        Self::made_by(Fork::Libc, body)
    }

    /// Runs `body` in a child that `fork` makes, and ends the child.
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

    /// Sends a signal to the child.
    pub fn send(&self, signal: i32) {
        // SAFETY: takes numbers, of a child of ours that nobody has waited for.
        assert_eq!(unsafe { libc::kill(self.0, signal) }, 0);
    }

    /// Waits for the child to end. Fails unless it succeeded.
    pub fn join(self) {
        let mut status = 0;
        // SAFETY: takes the id of our child, which nobody has waited for. The status lives until
        // the call returns.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        assert_eq!(status, 0, "the child failed, with signal {}", libc::WTERMSIG(status));
    }
}

/// A copy of this process that does nothing, and is killed when this is dropped.
#[derive(Debug)]
pub struct Idle(libc::pid_t);

impl Idle {
    /// Forks.
    #[expect(clippy::new_without_default, reason = "it forks")]
    pub fn new() -> Self {
        match Fork::Libc.fork() {
            0 => loop {
                // SAFETY: takes nothing.
                unsafe { libc::pause() };
            },
            id => Self(id),
        }
    }

    /// Whether the process has not ended yet.
    pub fn is_alive(&self) -> bool {
        // SAFETY: takes numbers. The status is not asked for.
        unsafe { libc::waitpid(self.0, ptr::null_mut(), libc::WNOHANG) == 0 }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // SAFETY: takes numbers, of a child of ours that nobody has waited for.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: takes numbers, of a child of ours that nobody has waited for.
        unsafe { libc::waitpid(self.0, ptr::null_mut(), 0) };
    }
}

/// Memory that nobody writes, and that must stay zero. If the kernel agrees, it lies where memory
/// was freed just before.
#[derive(Debug)]
pub struct Bait {
    start: *const u8,
    len: usize,
}

impl Bait {
    /// Maps `len` bytes, which stay mapped.
    pub fn new(len: usize) -> Self {
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, kind, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start: start.cast(), len }
    }

    /// Whether all bytes are still zero.
    pub fn is_untouched(&self) -> bool {
        // SAFETY: the mapping was just made. Nobody writes to it, unless the code under test is
        // wrong.
        let bytes = unsafe { std::slice::from_raw_parts(self.start, self.len) };
        bytes.iter().all(|&byte| byte == 0)
    }
}

/// Ends a child, without running any code of its parent.
pub fn end(passed: bool) -> ! {
    // SAFETY: takes a number.
    unsafe { libc::_exit(i32::from(!passed)) }
}
