//! [`Record`] and [`Share`]: who holds which received bytes, in the pool and outside of it.

// UNSAFETY: a record is counted by hand, because the count of a record in a pool decides about its
// buffer and not about itself; and its memory is a part of a block that the kernel writes the other
// parts of, which no slice of the whole block could express.
#![expect(unsafe_code, reason = "argued above")]

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use super::pool::Memory;
use crate::process::Process;

/// A piece of memory, the message in it, and how many hold it.
///
/// Each buffer of a pool has one, which stays. What else has one of its own, made for it, is a
/// message outside the pool, and a part of a message: a datagram of a train.
pub(super) struct Record {
    /// How many hold it. Of a buffer: 0 exactly when it is free.
    holders: Cell<u32>,
    /// Which buffer of its pool it is.
    id: u16,
    /// Which process has the memory. `None`: also those that were forked from it.
    process: Option<Process>,
    start: NonNull<u8>,
    /// Bytes from `start` on.
    len: u32,
    note: Cell<Note>,
    keeper: Keeper,
}

/// What keeps the memory where it is.
enum Keeper {
    /// The pool, which stays as long as any of its buffers is held.
    Pool(NonNull<Memory>),
    /// The message that it is a part of.
    Whole(Share),
    Unpooled(Unpooled),
}

impl Record {
    /// The record of the free buffer `id`, which is `len` bytes from `start` on.
    pub(super) fn buffer(id: u16, start: NonNull<u8>, len: usize, memory: &Weak<Memory>) -> Self {
        let (holders, note) = (Cell::default(), Cell::default());
        let memory = NonNull::new(memory.as_ptr().cast_mut()).expect("it is being made");
        let len = u32::try_from(len).expect("the builder bounds buffers");
        let process = Some(Process::current());
        Self { holders, id, process, start, len, note, keeper: Keeper::Pool(memory) }
    }

    fn loose(
        process: Option<Process>,
        start: NonNull<u8>,
        len: u32,
        note: Note,
        keeper: Keeper,
    ) -> Share {
        let (holders, note) = (Cell::new(1), Cell::new(note));
        let record = Self { holders, id: 0, process, start, len, note, keeper };
        Share { record: NonNull::from(Box::leak(Box::new(record))) }
    }

    /// Whether anybody holds it.
    pub(super) fn is_held(&self) -> bool {
        self.holders.get() > 0
    }

    /// Somebody fills the buffer, or has filled it.
    ///
    /// # Panics
    ///
    /// If it is held already.
    #[inline]
    pub(super) fn lend(&self) -> Share {
        assert!(self.holders.replace(1) == 0, "buffer {} was filled while it was held", self.id);
        Share { record: NonNull::from(self) }
    }
}

/// What the owner of a buffer notes of the bytes in it. The pool keeps it, and does not look at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note(pub [u32; 6]);

/// A share in received bytes. The memory goes back to the pool, or is freed, with the last of them.
pub struct Share {
    record: NonNull<Record>,
}

impl Share {
    /// Bytes outside the pool: those at `range` of `unpooled`.
    pub(super) fn unpooled(unpooled: Unpooled, range: Range<usize>, note: Note) -> Self {
        let bytes = NonNull::from(&unpooled[range]);
        let len = u32::try_from(bytes.len()).expect("the builder bounds messages");
        Record::loose(None, bytes.cast(), len, note, Keeper::Unpooled(unpooled))
    }

    #[inline]
    fn record(&self) -> &Record {
        // SAFETY: a share is counted, so that the record stays at least as long.
        unsafe { self.record.as_ref() }
    }

    /// The bytes, of a buffer to its end.
    ///
    /// # Panics
    ///
    /// In a forked child, which has no memory of the pool.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let record = self.record();
        let is_here = record.process.is_none_or(|process| process == Process::current());
        assert!(
            is_here,
            "a forked child has no memory of the datagrams that its parent received: \
             copy them before the fork"
        );
        // SAFETY: the keeper keeps the memory, which was written to its end before this was made: a
        // mapping is zeroed. Nobody writes to it while it is shared: the kernel has a buffer again
        // only after the last holder let go of it, and `Buffer` is the only holder while it is.
        unsafe { std::slice::from_raw_parts(record.start.as_ptr(), record.len as usize) }
    }

    /// Of a buffer that is being filled.
    ///
    /// # Panics
    ///
    /// If others hold it, too, or if it is none of a pool: a message of its own may lie in memory that
    /// others lie in.
    #[inline]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let record = self.record();
        let is_alone = matches!(record.keeper, Keeper::Pool(_)) && record.holders.get() == 1;
        assert!(is_alone, "a shared buffer is only read");
        debug_assert!(record.process == Some(Process::current()), "it is being filled");
        // SAFETY: as in `bytes`; and `&mut self` is the only way to these bytes: there is no other
        // share, and each part of a buffer holds one.
        unsafe { std::slice::from_raw_parts_mut(record.start.as_ptr(), record.len as usize) }
    }

    /// What is noted of the bytes.
    #[inline]
    #[must_use]
    pub fn note(&self) -> Note {
        self.record().note.get()
    }

    /// Notes what holds for all who share it, but not for the parts that were made of it.
    #[inline]
    pub fn set_note(&self, note: Note) {
        self.record().note.set(note);
    }

    /// A part with a note of its own, in the same memory.
    #[must_use]
    pub fn part(&self, note: Note) -> Self {
        let Record { process, start, len, keeper, .. } = self.record();
        let keeper = match keeper {
            Keeper::Pool(_) => Keeper::Whole(self.clone()),
            Keeper::Whole(whole) => Keeper::Whole(whole.clone()),
            Keeper::Unpooled(unpooled) => Keeper::Unpooled(unpooled.share()),
        };
        Record::loose(*process, *start, *len, note, keeper)
    }

    /// A copy outside the pool, if it lies in one. `copy` appends what is to be kept, and returns the
    /// note of the copy.
    pub fn copied_out(&self, copy: impl FnOnce(&[u8], &mut Vec<u8>) -> Note) -> Option<Self> {
        let mut record = self.record();
        if let Keeper::Whole(whole) = &record.keeper {
            record = whole.record();
        }
        let Keeper::Pool(memory) = &record.keeper else { return None };
        let mut bytes = Vec::new();
        let note = copy(self.bytes(), &mut bytes);
        // SAFETY: the pool stays as long as one of its buffers is held, as this one is.
        let memory = unsafe { memory.as_ref() };
        let range = 0..bytes.len();
        let unpooled = Unpooled::new(Rc::new(bytes.into()), memory.share(), Origin::Buffer);
        Some(Self::unpooled(unpooled, range, note))
    }

    /// Whether it lies in a buffer of the pool.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        !matches!(self.record().keeper, Keeper::Unpooled(_))
    }

    /// The program takes it: from now on it counts against the pool, also if it left it.
    #[inline]
    pub fn claim(&self) {
        if let Keeper::Unpooled(unpooled) = &self.record().keeper {
            unpooled.claim();
        }
    }
}

impl Clone for Share {
    #[inline]
    fn clone(&self) -> Self {
        let holders = &self.record().holders;
        holders.set(holders.get() + 1);
        Self { record: self.record }
    }
}

impl Drop for Share {
    #[inline]
    fn drop(&mut self) {
        let record = self.record();
        let left = record.holders.get() - 1;
        record.holders.set(left);
        if left > 0 {
            return;
        }
        if let Keeper::Pool(memory) = record.keeper {
            let id = record.id;
            // SAFETY: the pool stays as long as one of its buffers is held, as this one was, and
            // there is no reference to it here.
            unsafe { Memory::take_back(memory, id) };
        } else {
            // SAFETY: this was the last holder of a record that `loose` made.
            unsafe { free(self.record) };
        }
    }
}

/// # Safety
///
/// The record was made by [`Record::loose`], and nobody holds it.
#[inline(never)]
unsafe fn free(record: NonNull<Record>) {
    // SAFETY: it was a box, and is nobody's.
    drop(unsafe { Box::from_raw(record.as_ptr()) });
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("note", &self.note())
            .field("is_pooled", &self.is_pooled())
            .finish_non_exhaustive()
    }
}

/// The memory of a message outside the pool, or a share in it: all parts of a message share it.
///
/// While it waits in an inbox it takes nothing from the pool. Once the program holds it, it counts.
pub(crate) struct Unpooled {
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

impl Unpooled {
    /// A place for a message of its own.
    pub(super) fn new(bytes: Rc<Box<[u8]>>, pool: Rc<Memory>, origin: Origin) -> Self {
        let holder = Cell::new(Holder::Inbox);
        Self { shared: Rc::new(Shared { bytes, pool, origin, holder }) }
    }

    /// Another share in the same message.
    pub(super) fn share(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }

    /// The program holds it, or a share in it, from now on.
    pub(super) fn claim(&self) {
        let Shared { pool, origin, holder, .. } = &*self.shared;
        if holder.replace(Holder::Program) == Holder::Inbox {
            pool.claim(*origin);
        }
    }
}

impl Deref for Unpooled {
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
