//! [`Record`] and [`Share`]: which message lies where, and who holds its memory.

// UNSAFETY: a record is counted by hand, because the count of a record in a pool decides about its
// buffer and not about itself; and its memory is a part of a block that the kernel writes the other
// parts of, which no slice of the whole block could express.
#![expect(unsafe_code, reason = "argued above")]

use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use super::contents::Contents;
use super::outside::{Origin, Outside};
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
    contents: Cell<Contents>,
    keeper: Keeper,
}

/// What keeps the memory where it is.
enum Keeper {
    /// The pool, which stays as long as any of its buffers is held.
    Pool(NonNull<Memory>),
    /// The message that it is a part of.
    Whole(Share),
    Outside(Outside),
}

impl Record {
    /// The record of the free buffer `id`, which is `len` bytes from `start` on.
    pub(super) fn buffer(id: u16, start: NonNull<u8>, len: usize, memory: &Weak<Memory>) -> Self {
        let (holders, contents) = (Cell::default(), Cell::default());
        let memory = NonNull::new(memory.as_ptr().cast_mut()).expect("it is being made");
        let len = u32::try_from(len).expect("the builder bounds buffers");
        let process = Some(Process::current());
        Self { holders, id, process, start, len, contents, keeper: Keeper::Pool(memory) }
    }

    fn loose(
        process: Option<Process>,
        start: NonNull<u8>,
        len: u32,
        contents: Contents,
        keeper: Keeper,
    ) -> Share {
        let (holders, contents) = (Cell::new(1), Cell::new(contents));
        let record = Self { holders, id: 0, process, start, len, contents, keeper };
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

/// A share in a message. The memory goes back to the pool, or is freed, with the last of them.
pub(crate) struct Share {
    record: NonNull<Record>,
}

impl Share {
    /// A message outside the pool: `bytes` of `outside`.
    pub(crate) fn outside(outside: Outside, offset: usize, contents: Contents) -> Self {
        let bytes = NonNull::from(&outside[offset..][..contents.len()]);
        let len = u32::try_from(bytes.len()).expect("the builder bounds messages");
        Record::loose(None, bytes.cast(), len, contents, Keeper::Outside(outside))
    }

    #[inline]
    fn record(&self) -> &Record {
        // SAFETY: a share is counted, so that the record stays at least as long.
        unsafe { self.record.as_ref() }
    }

    /// The memory, from the header of the message on.
    ///
    /// # Panics
    ///
    /// In a forked child, which has no memory of the pool.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
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

    #[inline]
    pub(crate) fn contents(&self) -> Contents {
        self.record().contents.get()
    }

    /// What holds for all who share it, but not for the parts that were made of it.
    #[inline]
    pub(crate) fn set_contents(&self, contents: Contents) {
        self.record().contents.set(contents);
    }

    /// A message of its own that lies in the same memory.
    pub(crate) fn part(&self, contents: Contents) -> Self {
        let Record { process, start, len, keeper, .. } = self.record();
        let keeper = match keeper {
            Keeper::Pool(_) => Keeper::Whole(self.clone()),
            Keeper::Whole(whole) => Keeper::Whole(whole.clone()),
            Keeper::Outside(outside) => Keeper::Outside(outside.share()),
        };
        Record::loose(*process, *start, *len, contents, keeper)
    }

    /// Copies the message to a place outside the pool, if it lies in one.
    pub(crate) fn copied_out(&self) -> Option<Self> {
        let mut record = self.record();
        if let Keeper::Whole(whole) = &record.keeper {
            record = whole.record();
        }
        let Keeper::Pool(memory) = &record.keeper else { return None };
        let mut bytes = Vec::new();
        let contents = self.contents().append(self.bytes(), &mut bytes);
        // SAFETY: the pool stays as long as one of its buffers is held, as this one is.
        let memory = unsafe { memory.as_ref() };
        let outside = Outside::new(Rc::new(bytes.into()), memory.share(), Origin::Buffer);
        Some(Self::outside(outside, 0, contents))
    }

    /// What keeps the memory, if it is outside the pool.
    pub(crate) fn outside_memory(&self) -> Option<&Outside> {
        match &self.record().keeper {
            Keeper::Outside(outside) => Some(outside),
            Keeper::Pool(_) | Keeper::Whole(_) => None,
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
            .field("contents", &self.contents())
            .field("is_outside", &self.outside_memory().is_some())
            .finish_non_exhaustive()
    }
}
