//! [`Record`] and [`Share`]: who has which received bytes, in the pool and outside.

// UNSAFETY: a record counts its shares itself, because the count of a record in a pool decides
// about its buffer, not about the record. Its memory is a part of a block, other parts of which the
// kernel writes to. No slice of the whole block could express that.
#![expect(unsafe_code, reason = "argued above")]

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use super::pool::Memory;
use crate::process::Process;

/// A range of memory, the message in it, and the number of its shares.
///
/// Each buffer of a pool has a record, which stays. A message outside the pool has its own, which
/// is allocated with it, and so has a part of a message, that is a datagram of a train.
pub(super) struct Record {
    /// How many shares there are. For a buffer: 0 exactly when it is free.
    holders: Cell<u32>,
    /// The id of the buffer in its pool.
    id: u16,
    /// The process that has the memory. `None`: processes that were forked from it have it, too.
    process: Option<Process>,
    start: NonNull<u8>,
    /// Number of bytes from `start`.
    len: u32,
    note: Cell<Note>,
    keeper: Keeper,
}

/// What keeps the memory alive.
enum Keeper {
    /// The pool, which stays as long as any of its buffers has a share.
    Pool(NonNull<Memory>),
    /// The message that this is a part of.
    Whole(Share),
    Unpooled(Unpooled),
}

impl Record {
    /// The record of the free buffer `id`, which consists of `len` bytes from `start`.
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

    /// Whether there is any share.
    pub(super) fn is_held(&self) -> bool {
        self.holders.get() > 0
    }

    /// Makes the first share of a buffer that is or will be filled.
    ///
    /// # Panics
    ///
    /// If the buffer has a share.
    #[inline]
    pub(super) fn lend(&self) -> Share {
        assert!(self.holders.replace(1) == 0, "buffer {} was filled while it was held", self.id);
        Share { record: NonNull::from(self) }
    }
}

/// What the owner of a buffer records about its bytes. The pool stores it and does not interpret
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note(pub [u32; 6]);

/// A share of received bytes. When the last share is dropped, the memory returns to the pool, or is
/// freed.
pub struct Share {
    record: NonNull<Record>,
}

impl Share {
    /// A share of bytes outside the pool: those at `range` of `unpooled`.
    pub(super) fn unpooled(unpooled: Unpooled, range: Range<usize>, note: Note) -> Self {
        let bytes = NonNull::from(&unpooled[range]);
        let len = u32::try_from(bytes.len()).expect("the builder bounds messages");
        Record::loose(None, bytes.cast(), len, note, Keeper::Unpooled(unpooled))
    }

    #[inline]
    fn record(&self) -> &Record {
        // SAFETY: shares are counted, and the record lives as long as any of them.
        unsafe { self.record.as_ref() }
    }

    /// The bytes. For a buffer, all bytes up to its end.
    ///
    /// # Panics
    ///
    /// In a forked child, which does not have the memory of the pool.
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
        // SAFETY: the keeper keeps the memory alive. It is initialized to its end: a mapping is
        // zeroed. Nobody writes to it while it is shared: the kernel gets a buffer again only after
        // the last share was dropped, and a `Buffer` is the only share while it exists.
        unsafe { std::slice::from_raw_parts(record.start.as_ptr(), record.len as usize) }
    }

    /// The bytes of a buffer that is being filled.
    ///
    /// # Panics
    ///
    /// If there are other shares, or if the bytes are not those of a buffer: messages outside the
    /// pool may share their memory.
    #[inline]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let record = self.record();
        let is_alone = matches!(record.keeper, Keeper::Pool(_)) && record.holders.get() == 1;
        assert!(is_alone, "a shared buffer is only read");
        debug_assert!(record.process == Some(Process::current()), "it is being filled");
        // SAFETY: as in `bytes`. Also, `&mut self` is the only access to these bytes: there is no
        // other share, and each part of a buffer has one.
        unsafe { std::slice::from_raw_parts_mut(record.start.as_ptr(), record.len as usize) }
    }

    /// The note about the bytes.
    #[inline]
    #[must_use]
    pub fn note(&self) -> Note {
        self.record().note.get()
    }

    /// Sets the note. It holds for all shares, but not for parts that were made before or will be.
    #[inline]
    pub fn set_note(&self, note: Note) {
        self.record().note.set(note);
    }

    /// Makes a part with its own note, in the same memory.
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

    /// Makes a copy outside the pool, if the bytes are in a buffer. `copy` appends the bytes to
    /// keep, and returns the note of the copy.
    pub fn copied_out(&self, copy: impl FnOnce(&[u8], &mut Vec<u8>) -> Note) -> Option<Self> {
        let mut record = self.record();
        if let Keeper::Whole(whole) = &record.keeper {
            record = whole.record();
        }
        let Keeper::Pool(memory) = &record.keeper else { return None };
        let mut bytes = Vec::new();
        let note = copy(self.bytes(), &mut bytes);
        // SAFETY: the pool stays as long as one of its buffers has a share, as this one has.
        let memory = unsafe { memory.as_ref() };
        let range = 0..bytes.len();
        let unpooled = Unpooled::new(Rc::new(bytes.into()), memory.share(), Origin::Buffer);
        Some(Self::unpooled(unpooled, range, note))
    }

    /// Whether the bytes are in a buffer of the pool.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        !matches!(self.record().keeper, Keeper::Unpooled(_))
    }

    /// The program takes the message. From now on it counts against the pool, even if it was moved
    /// out of it.
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
            // SAFETY: the pool stays as long as one of its buffers has a share, as this one had,
            // and there is no reference to it here.
            unsafe { Memory::take_back(memory, id) };
        } else {
            // SAFETY: this was the last share of a record that `loose` made.
            unsafe { free(self.record) };
        }
    }
}

/// Frees a record outside the pool.
///
/// # Safety
///
/// The record was made by [`Record::loose`], and it has no shares.
#[inline(never)]
unsafe fn free(record: NonNull<Record>) {
    // SAFETY: it was a box, and nobody refers to it.
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

/// The memory of a message outside the pool. All parts of a message share it.
///
/// While the message is in an inbox, it does not count against the pool. Once the program has it,
/// it does.
pub(crate) struct Unpooled {
    shared: Rc<Shared>,
}

struct Shared {
    /// Other messages may be in it, too.
    bytes: Rc<Box<[u8]>>,
    pool: Rc<Memory>,
    origin: Origin,
    holder: Cell<Holder>,
}

/// Where a message came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A buffer of the pool. It still counts as a buffer: the program has at most as many messages
    /// as the pool has buffers, wherever they are.
    Buffer,
    /// A drain read it without the pool. It only counts as a message that the program has.
    DirectRead,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Inbox,
    Program,
}

impl Unpooled {
    /// The memory of one message.
    pub(super) fn new(bytes: Rc<Box<[u8]>>, pool: Rc<Memory>, origin: Origin) -> Self {
        let holder = Cell::new(Holder::Inbox);
        Self { shared: Rc::new(Shared { bytes, pool, origin, holder }) }
    }

    /// Another reference to the same message.
    pub(super) fn share(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }

    /// The program has the message, or a part of it, from now on.
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
