//! Descriptors: readiness, and the few that std does not make.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{self, EventfdFlags, PollFd, PollFlags, Timespec, epoll};

/// Makes an eventfd(2). It is non-blocking, so that a writer never waits for the runtime.
pub(crate) fn eventfd() -> io::Result<File> {
    let descriptor = event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
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
    fn poll_flags(self) -> PollFlags {
        match self {
            Self::Readable => PollFlags::IN,
            Self::Writable => PollFlags::OUT,
        }
    }

    /// The events as poll(2) and io_uring number them.
    pub(crate) fn poll_events(self) -> u32 {
        events(self.poll_flags())
    }
}

/// Returns the events for which `descriptor` is ready now.
///
/// # Errors
///
/// `WouldBlock` if it is not ready, or those of poll(2).
pub fn poll_now(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<u32> {
    let mut request = [PollFd::from_borrowed_fd(descriptor, interest.poll_flags())];
    match event::poll(&mut request, Some(&Timespec::default()))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(events(request[0].revents())),
    }
}

/// The bits of `flags`, whose type has a sign on some architectures.
fn events(flags: PollFlags) -> u32 {
    i32::from(flags.bits()).cast_unsigned()
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
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let unused = epoll::EventData::new_u64(0);
    epoll::add(&watch, descriptor, unused, epoll::EventFlags::OUT)?;
    Ok(watch)
}
