//! [`Block`]: the memory of a pool: a record for each buffer, then the buffers.

// UNSAFETY: the records, the buffers and what lies between the buffers are parts of one mapping, some
// of which the kernel writes.
#![expect(unsafe_code, reason = "argued above")]

use std::ptr::NonNull;
use std::rc::Weak;

use super::canary::{self, GAP};
use super::mapping::Mapping;
use super::pool::Memory;
use super::record::Record;

pub(super) struct Block {
    mapping: Mapping,
    count: u16,
    /// Bytes of a buffer, which the kernel may write. The next one comes [`GAP`] bytes later.
    pub(super) len: usize,
}

/// A record in a cache line of its own.
#[repr(align(64))]
struct Slot(Record);

const _: () = assert!(size_of::<Slot>() == 64, "a buffer starts at a cache line");

impl Block {
    /// Bytes of memory for `count` buffers of `len` bytes.
    pub(super) fn size(count: usize, len: usize) -> usize {
        (size_of::<Slot>() + len + GAP) * count
    }

    /// `mapping` is as large as [`size`](Self::size) says, and of the pool `memory`.
    pub(super) fn new(mapping: Mapping, count: u16, len: usize, memory: &Weak<Memory>) -> Self {
        let block = Self { mapping, count, len };
        for id in 0..count {
            let slot = Slot(Record::buffer(id, block.buffer(id), len, memory));
            // SAFETY: inside of the mapping, aligned, and nobody has seen it yet.
            unsafe { block.slot(id).write(slot) };
        }
        if cfg!(debug_assertions) {
            (0..count).for_each(|id| block.plant(id));
        }
        block
    }

    #[inline]
    fn slot(&self, id: u16) -> NonNull<Slot> {
        assert!(id < self.count, "the kernel names only buffers that it was given");
        // SAFETY: the mapping starts with `count` slots.
        unsafe { self.mapping.start().cast::<Slot>().add(id.into()) }
    }

    /// Where the buffer `id` starts.
    #[inline]
    pub(super) fn buffer(&self, id: u16) -> NonNull<u8> {
        let records = size_of::<Slot>() * usize::from(self.count);
        let offset = records + (self.len + GAP) * usize::from(id);
        assert!(offset + self.len + GAP <= self.mapping.len());
        // SAFETY: the offset lies inside the mapping, as just asserted.
        unsafe { self.mapping.start().add(offset) }
    }

    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count.into()
    }

    #[inline]
    pub(super) fn record(&self, id: u16) -> &Record {
        // SAFETY: `new` has written it, at the start of a mapping, which is aligned for it; from then
        // on it is only shared.
        unsafe { &self.slot(id).as_ref().0 }
    }

    /// Where the gap behind a buffer starts.
    pub(super) fn gap(&self, id: u16) -> *mut [u8; GAP] {
        // SAFETY: the buffer and the gap behind it lie inside the mapping, as `buffer` asserts.
        unsafe { self.buffer(id).add(self.len).as_ptr().cast() }
    }

    /// Before anybody else has the memory.
    fn plant(&self, id: u16) {
        // SAFETY: mapped and zeroed, and nobody else's: no buffer reaches into the gap.
        canary::plant(unsafe { &mut *self.gap(id) });
    }

    /// Looks whether a buffer was written to past its end, in debug builds.
    #[inline]
    pub(super) fn check(&self, id: u16) {
        if cfg!(debug_assertions) {
            // SAFETY: mapped as long as `self` lives, and written by `plant` alone, before the
            // kernel or a `Buffer` had any of it: no buffer reaches into the gap.
            canary::check(id, unsafe { &*self.gap(id) });
        }
    }
}

impl Drop for Block {
    /// The buffers that were never filled have not been looked at.
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            (0..self.count).for_each(|id| self.check(id));
        }
    }
}
