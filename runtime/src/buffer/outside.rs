//! [`Outside`]: memory of messages outside the pool.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use super::pool::Memory;

/// Memory that one or more messages lie in outside the pool, or a share in it.
///
/// A message that had to leave its buffer takes nothing from the pool while it waits in an inbox.
/// Once the program holds it, it counts as a buffer: what a program holds is bounded by the pool,
/// wherever it lies.
pub(crate) struct Outside {
    shared: Rc<Shared>,
}

struct Shared {
    bytes: Box<[u8]>,
    /// The pool that it counts against. `None` for what was never in it: a direct read.
    pool: Option<Rc<Memory>>,
    holder: Cell<Holder>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Inbox,
    Program,
}

impl Outside {
    /// A place for what was read past the pool.
    pub(crate) fn direct(bytes: Box<[u8]>) -> Self {
        Self::new(bytes, None)
    }

    /// A place for what was in a buffer of `pool`.
    pub(super) fn of_pool(bytes: Box<[u8]>, pool: Rc<Memory>) -> Self {
        Self::new(bytes, Some(pool))
    }

    fn new(bytes: Box<[u8]>, pool: Option<Rc<Memory>>) -> Self {
        let holder = Cell::new(Holder::Inbox);
        Self { shared: Rc::new(Shared { bytes, pool, holder }) }
    }

    /// Another share in the same memory.
    pub(crate) fn share(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }

    /// The program holds it, or a share in it, from now on.
    pub(crate) fn claim(&self) {
        if self.shared.holder.replace(Holder::Program) == Holder::Inbox
            && let Some(pool) = &self.shared.pool
        {
            pool.claim();
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
        if let (Holder::Program, Some(pool)) = (self.holder.get(), &self.pool) {
            pool.release_claim();
        }
    }
}
