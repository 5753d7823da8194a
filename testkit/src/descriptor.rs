//! Descriptors: their count, chosen numbers, second descriptors of a socket, and sockets that a
//! child process is started with.

// UNSAFETY: a descriptor of a chosen number has no safe form, nor has one that a child is given.
#![expect(unsafe_code, reason = "argued above")]

use std::fs::{self, File};
use std::io;
use std::iter;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use socket2::Socket;

use crate::checked;

/// How many descriptors this process has open.
pub fn count() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}

/// Opens files until no descriptor is left. For a process with a limit of its own.
pub fn use_up() -> Vec<File> {
    iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// A second descriptor of the same socket, which outlives the first: to look into its queue.
pub fn duplicate(socket: &impl AsFd) -> Socket {
    Socket::from(socket.as_fd().try_clone_to_owned().expect("a descriptor is left"))
}

/// A number above those that the kernel gives to new descriptors, reserved for one test.
#[derive(Debug)]
pub struct Number(RawFd);

impl Number {
    /// The lowest number that is reserved.
    pub const FIRST: RawFd = 600;

    /// Reserves the next number.
    pub fn reserve() -> Self {
        static NEXT: AtomicI32 = AtomicI32::new(Number::FIRST);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// A second descriptor of `socket`, which has this number. The caller has dropped the one that
    /// had it before.
    pub fn duplicate(&self, socket: &impl AsFd) -> OwnedFd {
        // SAFETY: takes numbers.
        let copy = unsafe { libc::dup2(socket.as_fd().as_raw_fd(), self.0) };
        assert_eq!(copy, self.0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor is new and belongs to nobody else.
        unsafe { OwnedFd::from_raw_fd(copy) }
    }
}

/// Starts `child` with these two as its descriptors 3 and 4.
pub(crate) fn pass(child: &mut Command, sockets: [BorrowedFd<'_>; 2]) {
    let numbers = sockets.map(|socket| socket.as_raw_fd());
    let set = move || {
        // Out of the way first: either may have the number of the other's place.
        let [first, second] =
            // SAFETY: takes three numbers.
            numbers.map(|number| unsafe { libc::fcntl(number, libc::F_DUPFD, 100) });
        for (number, place) in [(first, 3), (second, 4)] {
            checked(number)?;
            // SAFETY: takes two numbers.
            checked(unsafe { libc::dup2(number, place) })?;
            // SAFETY: it is the copy that was just made.
            checked(unsafe { libc::close(number) })?;
        }
        Ok(())
    };
    // SAFETY: the three calls are async-signal-safe, and nothing is allocated.
    unsafe { child.pre_exec(set) };
}
