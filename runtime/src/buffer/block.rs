//! [`Block`]: the memory of a pool, that is a record for each buffer, and the buffers.
//!
//! A forked child gets the records, so that it can drop what it inherited, but not the buffers.

// UNSAFETY: the records are parts of one mapping. The buffers and the gaps between them are parts
// of another, some of which the kernel writes to.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::ptr::NonNull;
use std::rc::Weak;

use super::canary::{self, GAP};
use super::mapping::{InChild, Mapping};
use super::pool::Memory;
use super::record::Record;
use crate::process::Process;

pub(super) struct Block {
    records: Mapping,
    buffers: Mapping,
    /// The process that has the buffers.
    process: Process,
    count: u16,
    /// Bytes of a buffer, which the kernel may write. The next buffer starts [`GAP`] bytes after
    /// them.
    pub(super) len: usize,
}

/// A record in its own cache line.
#[repr(align(64))]
struct Slot(Record);

const _: () = assert!(size_of::<Slot>() == 64, "a buffer starts at a cache line");

impl Block {
    /// Maps memory for the records, and for `count` buffers of `len` bytes.
    pub(super) fn map(count: usize, len: usize) -> io::Result<(Mapping, Mapping)> {
        let records = Mapping::new(size_of::<Slot>() * count, InChild::Copied)?;
        let buffers = Mapping::new((len + GAP) * count, InChild::Absent)?;
        Ok((records, buffers))
    }

    /// Makes a block from the mappings that [`map`](Self::map) made for this `count` and `len`, for
    /// the pool `memory`.
    pub(super) fn new(
        records: Mapping,
        buffers: Mapping,
        count: u16,
        len: usize,
        memory: &Weak<Memory>,
    ) -> Self {
        let block = Self { records, buffers, process: Process::current(), count, len };
        for id in 0..count {
            let slot = Slot(Record::buffer(id, block.buffer(id), len, memory));
            // SAFETY: inside the mapping, aligned, and not shared yet.
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
        // SAFETY: the mapping holds `count` slots.
        unsafe { self.records.start().cast::<Slot>().add(id.into()) }
    }

    /// Where the buffer `id` starts.
    #[inline]
    pub(super) fn buffer(&self, id: u16) -> NonNull<u8> {
        let offset = (self.len + GAP) * usize::from(id);
        assert!(offset + self.len + GAP <= self.buffers.len());
        // SAFETY: the offset lies inside the mapping, as just asserted.
        unsafe { self.buffers.start().add(offset) }
    }

    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count.into()
    }

    #[inline]
    pub(super) fn record(&self, id: u16) -> &Record {
        // SAFETY: `new` has written it. A mapping starts at a page, so it is aligned. From then on
        // it is only shared.
        unsafe { &self.slot(id).as_ref().0 }
    }

    /// Where the gap after a buffer starts.
    pub(super) fn gap(&self, id: u16) -> *mut [u8; GAP] {
        // SAFETY: the buffer and the gap after it are inside the mapping, as `buffer` asserts.
        unsafe { self.buffer(id).add(self.len).as_ptr().cast() }
    }

    /// Fills the gap after a buffer, before anybody else has the memory.
    fn plant(&self, id: u16) {
        // SAFETY: mapped and zeroed, and nobody else has it: no buffer reaches into the gap.
        canary::plant(unsafe { &mut *self.gap(id) });
    }

    /// In debug builds, checks whether something wrote past the end of a buffer.
    #[inline]
    pub(super) fn check(&self, id: u16) {
        if cfg!(debug_assertions) && self.process == Process::current() {
            // SAFETY: mapped as long as `self` lives. Only `plant` has written it, before the
            // kernel or a `Buffer` had any of the block: no buffer reaches into the gap.
            canary::check(id, unsafe { &*self.gap(id) });
        }
    }
}

impl Drop for Block {
    /// Checks all buffers: those that were never filled were not checked yet.
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            (0..self.count).for_each(|id| self.check(id));
        }
    }
}
