//! Descriptors: their number, descriptors of a chosen number, second descriptors of a socket, and
//! sockets that a child process starts with.

// UNSAFETY: there is no safe way to open a descriptor with a chosen number, or to pass one to a
// child.
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

/// Opens files until no descriptor is left. For a process with its own limit.
pub fn use_up() -> Vec<File> {
    iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// A second descriptor of the same socket, to look into its queue. It outlives the first.
pub fn duplicate(socket: &impl AsFd) -> Socket {
    Socket::from(socket.as_fd().try_clone_to_owned().expect("a descriptor is left"))
}

/// A descriptor number, reserved for one test. It is above those that the kernel assigns.
#[derive(Debug)]
pub struct Number(RawFd);

impl Number {
    /// The lowest reserved number.
    pub const FIRST: RawFd = 600;

    /// Reserves the next number.
    pub fn reserve() -> Self {
        static NEXT: AtomicI32 = AtomicI32::new(Number::FIRST);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// A second descriptor of `socket`, with this number. The caller has closed the previous one.
    pub fn duplicate(&self, socket: &impl AsFd) -> OwnedFd {
        // SAFETY: takes numbers.
        let copy = unsafe { libc::dup2(socket.as_fd().as_raw_fd(), self.0) };
        assert_eq!(copy, self.0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor is new and belongs to nobody else.
        unsafe { OwnedFd::from_raw_fd(copy) }
    }
}

/// Starts `child` with these sockets as its descriptors 3 and 4.
pub(crate) fn pass(child: &mut Command, sockets: [BorrowedFd<'_>; 2]) {
    let numbers = sockets.map(|socket| socket.as_raw_fd());
    let set = move || {
        // First copied to high numbers, because either may have the number that the other gets.
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
