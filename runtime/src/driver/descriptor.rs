//! Descriptors: readiness, and the few calls that std does not offer in safe form.

// UNSAFETY: std has no safe form of eventfd, poll and epoll.
#![expect(unsafe_code, reason = "argued above")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Makes an eventfd(2). It is non-blocking, so that a writer never waits for the runtime.
pub(crate) fn eventfd() -> io::Result<File> {
    // SAFETY: takes two numbers.
    let number = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and has no other owner.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(File::from(descriptor))
}

/// The readiness to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Data to read, an error, or the end.
    Readable,
    /// Buffer space to write to, or an error.
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

/// Returns the events for which `descriptor` is ready now.
///
/// # Errors
///
/// `WouldBlock` if it is not ready, or those of poll(2).
pub fn poll_now(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<u32> {
    let mut request =
        libc::pollfd { fd: descriptor.as_raw_fd(), events: interest.poll_events(), revents: 0 };
    // SAFETY: one valid pollfd, and a timeout of zero.
    match unsafe { libc::poll(&raw mut request, 1, 0) } {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        1 => Ok(request.revents.cast_unsigned().into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a descriptor that is readable when `descriptor` is writable or has failed: an epoll(7)
/// instance that watches it.
///
/// io_uring always polls for `EPOLLRDHUP` as well, so a socket that is shut down for reading would
/// always be ready (docs/kernel.md, K-POLL-1).
///
/// # Errors
///
/// If no descriptor is left, or those of epoll_ctl(2).
pub fn watch_writable(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let epoll = epoll()?;
    let events = libc::EPOLLOUT.cast_unsigned();
    epoll_control(epoll.as_fd(), libc::EPOLL_CTL_ADD, descriptor.as_raw_fd(), events, 0)?;
    Ok(epoll)
}

/// Makes an epoll(7) descriptor.
pub(crate) fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: takes a number.
    let number = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// epoll_ctl(2).
pub(crate) fn epoll_control(
    epoll: BorrowedFd<'_>,
    operation: i32,
    number: RawFd,
    events: u32,
    data: u64,
) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: both descriptors are numbers, and the event lives until the call returns.
    let result = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, number, &raw mut event) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
