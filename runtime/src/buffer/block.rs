//! [`Block`]: the memory of a pool: a record for each buffer, and the buffers.
//!
//! A forked child gets the records, so that what it inherited can be dropped there, but no buffer.

// UNSAFETY: the records are parts of one mapping, and the buffers and what lies between them of another,
// some of which the kernel writes.
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
    /// Bytes of a buffer, which the kernel may write. The next one comes [`GAP`] bytes later.
    pub(super) len: usize,
}

/// A record in a cache line of its own.
#[repr(align(64))]
struct Slot(Record);

const _: () = assert!(size_of::<Slot>() == 64, "a buffer starts at a cache line");

impl Block {
    /// Memory for the records, and for `count` buffers of `len` bytes.
    pub(super) fn map(count: usize, len: usize) -> io::Result<(Mapping, Mapping)> {
        let records = Mapping::new(size_of::<Slot>() * count, InChild::Copied)?;
        let buffers = Mapping::new((len + GAP) * count, InChild::Absent)?;
        Ok((records, buffers))
    }

    /// The mappings are those that [`map`](Self::map) made for them, of the pool `memory`.
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
        if cfg!(debug_assertions) && self.process == Process::current() {
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
