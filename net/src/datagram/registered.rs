//! [`RegisteredSocket`]: a socket, the runtime that it is registered with, and how long it is open.
//! Both halves of an endpoint work on it, and a send that waits keeps it.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Weak;

use ebbtide_runtime::{Again, AtTurnEnd, Registration};

use super::aside::Place;
use crate::sys::socket::{Family, Socket};

pub(crate) struct RegisteredSocket {
    pub(super) registration: Registration,
    pub(super) socket: Socket,
    family: Family,
    life: Cell<Life>,
    /// Whether it has left its share to other sockets.
    pub(super) place: Place,
    /// Whose it is.
    endpoint: Weak<dyn AtTurnEnd>,
    /// True exactly while the runtime is to call the endpoint at the end of the turn.
    is_called_at_turn_end: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Open,
    /// The user let go of it.
    Closed,
    /// Its runtime has ended, and its address is free; `drops` is the last count of the kernel.
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
            place: Place::default(),
            endpoint,
            is_called_at_turn_end: Cell::new(false),
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Whether its kernel is one in memory.
    pub(crate) fn is_model(&self) -> bool {
        !matches!(self.socket, Socket::Kernel(_))
    }

    /// The kernel's socket, as long as it is open.
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

    /// Whether the user has it, in a runtime that runs.
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

    /// Puts another descriptor in the place of the socket: its address is free when this returns.
    pub(super) fn replace_descriptor(&self) {
        // It fails only for a descriptor that somebody else has closed already.
        let _ = self.socket.replace_descriptor(self.registration.placeholder());
    }

    /// Has [`turn_ends`](AtTurnEnd::turn_ends) of the endpoint called.
    pub(super) fn call_at_turn_end(&self) {
        if self.is_called_at_turn_end.replace(true) {
            return self.registration.no_sleep_before_turn_end();
        }
        self.registration.at_turn_end(Weak::clone(&self.endpoint));
    }

    /// It was called, and is called at the end of the next turn if `again` says so.
    pub(super) fn was_called_at_turn_end(&self, again: Again) {
        self.is_called_at_turn_end.set(again != Again::No);
    }
}

/// The error of what is asked of a socket after its end.
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
