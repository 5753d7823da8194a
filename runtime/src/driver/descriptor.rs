//! Descriptors: readiness, and the two small calls that std has no safe form of.

// UNSAFETY: eventfd and poll have no safe form in std.
#![expect(unsafe_code, reason = "argued above")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A new eventfd(2): non-blocking, so that a writer never waits for the runtime.
pub(crate) fn eventfd() -> io::Result<File> {
    // SAFETY: takes two numbers.
    let number = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(File::from(descriptor))
}

/// Which readiness to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// There is something to read, or an error, or the end.
    Readable,
    /// There is room to write, or an error.
    Writable,
}

impl Interest {
    pub(crate) fn poll_events(self) -> i16 {
        match self {
            Self::Readable => libc::POLLIN,
            Self::Writable => libc::POLLOUT,
        }
    }
}

/// Whether `descriptor` is ready now: its events, or `WouldBlock`.
pub(crate) fn poll_now(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<u32> {
    let mut request =
        libc::pollfd { fd: descriptor.as_raw_fd(), events: interest.poll_events(), revents: 0 };
    // SAFETY: one valid pollfd, and a timeout of zero.
    match unsafe { libc::poll(&raw mut request, 1, 0) } {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        1 => Ok(request.revents as u32),
        _ => Err(io::Error::last_os_error()),
    }
}
