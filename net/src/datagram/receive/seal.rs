//! [`Seal`]: whether the kernel still queues datagrams on a socket, and how many it has dropped.

use std::cell::{Cell, OnceCell};
use std::io;

use super::machine::ReadOn;
use crate::sys::socket::{Family, OwnFilter, Socket};

/// The most datagrams that a drain reads from a socket that could not be sealed, because its queue
/// may never become empty. It exceeds what a receive buffer of the default size holds.
const UNSEALED_READ_LIMIT: u64 = 65_536;

pub(super) struct Seal {
    state: Cell<State>,
    /// The filter that the seal of a UDP socket has replaced. Set when the socket is sealed.
    own_filter: OnceCell<OwnFilter>,
    /// The kernel's drop counter when the socket was opened. A socket that was passed in may have
    /// dropped some before.
    drops_before: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Open,
    /// `drops` is the kernel's drop counter at the seal. Later drops count as refused.
    Sealed {
        drops: u32,
    },
    /// The kernel refused the seal. `left` more datagrams may be read.
    Refused {
        left: u64,
    },
    /// The socket is left to others who hold it, and has no seal.
    Left,
}

/// How many datagrams the kernel has dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drops {
    pub(super) before_the_seal: u64,
    pub(super) refused: u64,
}

impl Seal {
    pub(super) fn new(socket: &Socket) -> Self {
        Self {
            state: Cell::new(State::Open),
            own_filter: OnceCell::new(),
            drops_before: socket.drop_count().unwrap_or(0),
        }
    }

    /// Seals the socket.
    ///
    /// # Errors
    ///
    /// The kernel refuses the seal. The socket then counts as sealed, and a limited number of
    /// datagrams is read.
    pub(super) fn seal(&self, socket: &Socket, family: Family) -> io::Result<()> {
        let drops = socket.drop_count().unwrap_or(0);
        let sealed = match family {
            Family::Internet => socket.seal_by_filter().map(|own| {
                self.own_filter.set(own).expect("sealed once");
            }),
            Family::Unix => socket.seal_by_shutdown(),
        };
        self.state.set(match sealed {
            Ok(()) => State::Sealed { drops },
            Err(_) => State::Refused { left: UNSEALED_READ_LIMIT },
        });
        sealed
    }

    /// Leaves the socket to others who hold it.
    pub(super) fn leave(&self) {
        self.state.set(State::Left);
    }

    /// Removes the seal of a UDP socket.
    pub(super) fn remove(&self, socket: &Socket) -> io::Result<()> {
        self.own_filter.get().map_or(Ok(()), |own| socket.unseal(own))
    }

    /// Whether the drain has reached this socket, even if the kernel refused the seal.
    pub(super) fn has_come(&self) -> bool {
        !matches!(self.state.get(), State::Open)
    }

    /// Whether another drain has nothing to do for the seal.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.state.get(), State::Sealed { .. } | State::Left)
    }

    pub(super) fn is_left(&self) -> bool {
        matches!(self.state.get(), State::Left)
    }

    /// Whether the kernel queues nothing more.
    pub(super) fn holds(&self) -> bool {
        matches!(self.state.get(), State::Sealed { .. })
    }

    pub(super) fn is_refused(&self) -> bool {
        matches!(self.state.get(), State::Refused { .. })
    }

    /// `read` more datagrams were read.
    pub(super) fn use_up(&self, read: usize) -> ReadOn {
        let State::Refused { left } = self.state.get() else { return ReadOn::Yes };
        let left = left.saturating_sub(read as u64);
        self.state.set(State::Refused { left });
        if left == 0 { ReadOn::No } else { ReadOn::Yes }
    }

    /// Splits the kernel's drop counter, which is now `drops`. `None` if it is not known.
    pub(super) fn drops(&self, drops: Option<u32>) -> Drops {
        let drops = drops.unwrap_or(self.drops_before);
        let at_seal = match self.state.get() {
            State::Sealed { drops } => drops,
            State::Open | State::Refused { .. } | State::Left => drops,
        };
        Drops {
            before_the_seal: u64::from(at_seal.wrapping_sub(self.drops_before)),
            refused: u64::from(drops.wrapping_sub(at_seal)),
        }
    }
}
