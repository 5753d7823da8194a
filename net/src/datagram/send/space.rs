//! [`SpaceWait`]: how a send waits for buffer space.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ebbtide_runtime::limits::SEND_RETRY_MS;
use ebbtide_runtime::{InFlight, Registration, Retry};
use socket2::SockAddr;

use super::ready::SendReady;
use crate::datagram::registered::RegisteredSocket;

/// A wait for buffer space, after which a send is tried again.
#[derive(Debug)]
pub(super) struct SpaceWait {
    registration: Registration,
    notice: Notice,
}

/// What ends the wait.
#[derive(Debug)]
enum Notice {
    /// The kernel reports space.
    Kernel(InFlight<SendReady>),
    /// A timer, because there is no descriptor or no memory to ask the kernel.
    Clock(Retry),
}

/// How a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Found,
    /// There may be space; trying to send shows it.
    Unknown,
}

impl SpaceWait {
    /// Waits for space for a datagram from `socket` to `to`, or to the connected peer.
    ///
    /// # Errors
    ///
    /// * The runtime has ended.
    /// * Those of sending to a Unix peer.
    pub(super) fn new(socket: &Rc<RegisteredSocket>, to: Option<&SockAddr>) -> io::Result<Self> {
        socket.check_open()?;
        let registration = socket.registration.clone();
        let notice = match SendReady::new(socket, to) {
            Ok(ready) => Notice::Kernel(registration.submit(ready)),
            Err(error) if is_shortage(&error) => clock(&registration),
            Err(error) => return Err(error),
        };
        Ok(Self { registration, notice })
    }

    /// Ready when the send is to be tried again.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Space>> {
        loop {
            match &mut self.notice {
                Notice::Kernel(in_flight) => match ready!(Pin::new(in_flight).poll(cx)) {
                    Ok(()) => return Poll::Ready(Ok(Space::Found)),
                    Err(error) if is_shortage(&error) => self.notice = clock(&self.registration),
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Notice::Clock(retry) => {
                    ready!(Pin::new(retry).poll(cx));
                    return Poll::Ready(Ok(Space::Unknown));
                }
            }
        }
    }
}

fn clock(registration: &Registration) -> Notice {
    Notice::Clock(registration.retry_after(Duration::from_millis(SEND_RETRY_MS)))
}

/// Whether the kernel could not be asked because a resource has run out that the send itself does
/// not need: descriptors of the process or of the system, memory, or epoll watches.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC)
    )
}
