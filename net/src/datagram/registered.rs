//! [`RegisteredSocket`]: a socket, its registration with a runtime, and whether it is still open.
//!
//! Both halves of an endpoint use it. A send that waits for buffer space keeps it alive.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Weak;

use ebbtide_runtime::{Again, AtTurnEnd, Registration};

use super::aside::SteppedAside;
use crate::sys::socket::{Family, Socket};

pub(crate) struct RegisteredSocket {
    pub(super) registration: Registration,
    pub(super) socket: Socket,
    family: Family,
    life: Cell<Life>,
    /// Whether the socket has left its share of the address to other sockets.
    pub(super) aside: SteppedAside,
    /// The endpoint that owns the socket.
    endpoint: Weak<dyn AtTurnEnd>,
    /// True exactly while the runtime is to call the endpoint at the end of the turn.
    is_called_at_turn_end: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Open,
    /// The user has dropped it.
    Closed,
    /// Its runtime has ended, and its address is free. `drops` is the kernel's last drop count.
    Ended {
        drops: u32,
    },
}

impl RegisteredSocket {
    pub(super) fn new(
        registration: Registration,
        socket: Socket,
        family: Family,
        endpoint: Weak<dyn AtTurnEnd>,
    ) -> Self {
        Self {
            registration,
            socket,
            family,
            life: Cell::new(Life::Open),
            aside: SteppedAside::default(),
            endpoint,
            is_called_at_turn_end: Cell::new(false),
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Whether the socket belongs to a kernel in memory.
    pub(crate) fn is_model(&self) -> bool {
        !matches!(self.socket, Socket::Kernel(_))
    }

    /// The kernel's socket, while it is open.
    pub(crate) fn kernel(&self) -> io::Result<&socket2::Socket> {
        self.check_open()?;
        self.socket.kernel()
    }

    pub(super) fn life(&self) -> Life {
        self.life.get()
    }

    pub(super) fn set_life(&self, life: Life) {
        self.life.set(life);
    }

    /// Whether the user still owns it, in a runtime that still runs.
    pub(super) fn is_open(&self) -> bool {
        self.life.get() == Life::Open
    }

    pub(super) fn check_open(&self) -> io::Result<()> {
        self.registration.check_process()?;
        match self.life.get() {
            Life::Open => Ok(()),
            Life::Closed | Life::Ended { .. } => Err(ended()),
        }
    }

    /// Replaces the socket behind the descriptor's number. When this returns, its address is free.
    pub(super) fn replace_descriptor(&self) {
        // It fails only if somebody else has already closed the descriptor.
        let _ = self.socket.replace_descriptor(self.registration.placeholder());
    }

    /// Makes the runtime call [`turn_ends`](AtTurnEnd::turn_ends) of the endpoint.
    pub(super) fn call_at_turn_end(&self) {
        if self.is_called_at_turn_end.replace(true) {
            return self.registration.no_sleep_before_turn_end();
        }
        self.registration.at_turn_end(Weak::clone(&self.endpoint));
    }

    /// The runtime has called the endpoint, and calls it again after the next turn if `again` says
    /// so.
    pub(super) fn was_called_at_turn_end(&self, again: Again) {
        self.is_called_at_turn_end.set(again != Again::No);
    }
}

/// The error of calls after the end of the socket.
pub(super) fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the ebbtide runtime of this socket has ended")
}

impl AsFd for RegisteredSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for RegisteredSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredSocket")
            .field("family", &self.family)
            .field("life", &self.life.get())
            .finish_non_exhaustive()
    }
}
