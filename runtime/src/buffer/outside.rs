//! [`Outside`]: memory of messages outside the pool.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use super::pool::Memory;

/// The memory of a message outside the pool, or a share in it: all parts of a message share it.
///
/// While it waits in an inbox it takes nothing from the pool. Once the program holds it, it counts.
pub(crate) struct Outside {
    shared: Rc<Shared>,
}

struct Shared {
    /// Other messages may lie in it, too.
    bytes: Rc<Box<[u8]>>,
    pool: Rc<Memory>,
    origin: Origin,
    holder: Cell<Holder>,
}

/// Where a message came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A buffer of the pool. The program holds at most as much as the pool has, wherever it lies: it
    /// still counts as a buffer.
    Buffer,
    /// It was read past the pool, by a drain: it only counts as held.
    DirectRead,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Inbox,
    Program,
}

impl Outside {
    /// A place for a message of its own.
    pub(super) fn new(bytes: Rc<Box<[u8]>>, pool: Rc<Memory>, origin: Origin) -> Self {
        let holder = Cell::new(Holder::Inbox);
        Self { shared: Rc::new(Shared { bytes, pool, origin, holder }) }
    }

    /// Another share in the same message.
    pub(crate) fn share(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }

    /// The program holds it, or a share in it, from now on.
    pub(crate) fn claim(&self) {
        let Shared { pool, origin, holder, .. } = &*self.shared;
        if holder.replace(Holder::Program) == Holder::Inbox {
            pool.claim(*origin);
        }
    }
}

impl Deref for Outside {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.shared.bytes
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.holder.get() == Holder::Program {
            self.pool.release_claim(self.origin);
        }
    }
}
