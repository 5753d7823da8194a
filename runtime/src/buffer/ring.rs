//! The ring of free buffers that the kernel takes from: `io_uring_register_buf_ring(3)`, Linux
//! 5.19.
//!
//! This side only adds, at the tail. The kernel only takes, at the head. The ring has at least as
//! many entries as there are buffers, so it cannot overflow.

// UNSAFETY: the entries and the tail are in memory that is shared with the kernel.
#![expect(unsafe_code, reason = "argued above")]

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::mapping::{InChild, Mapping};

pub(crate) struct BufferRing {
    memory: Mapping,
    entries: u16,
    /// This side's copy of the tail. Only this side writes the tail.
    tail: Cell<u16>,
}

impl BufferRing {
    /// An empty ring that can take `count` buffers.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let entries = count.next_power_of_two();
        let memory = Mapping::new(entries * size_of::<BufRingEntry>(), InChild::Absent)?;
        let entries = u16::try_from(entries).expect("the builder bounds the number of buffers");
        Ok(Self { memory, entries, tail: Cell::new(0) })
    }

    /// The address of the ring, to register it.
    pub(crate) fn address(&self) -> u64 {
        self.memory.start().as_ptr().expose_provenance() as u64
    }

    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// Adds buffers of `len` bytes: the address and the id of each, in order.
    pub(crate) fn give(&self, len: u32, buffers: impl Iterator<Item = (u64, u16)>) {
        let base: *mut BufRingEntry = self.memory.start().as_ptr().cast();
        let mut tail = self.tail.get();
        for (address, id) in buffers {
            // SAFETY: the index is below `entries`, and the mapping has that many.
            let entry = unsafe { base.add(usize::from(tail & (self.entries - 1))) };
            // SAFETY: an entry at or after the tail belongs to this side: the kernel reads only
            // entries before it. The mapping is zeroed, page-aligned and lives as long as `self`.
            // The tail shares memory with the reserved field of entry 0, which the setters below do
            // not touch.
            let entry = unsafe { &mut *entry };
            entry.set_addr(address);
            entry.set_len(len);
            entry.set_bid(id);
            tail = tail.wrapping_add(1);
        }
        self.tail.set(tail);
        self.shared_tail().store(tail, Ordering::Release);
    }

    /// Removes all buffers. The ring must not be registered; the kernel starts at 0 when it is
    /// registered again.
    pub(crate) fn reset(&self) {
        self.tail.set(0);
        self.shared_tail().store(0, Ordering::Release);
    }

    fn shared_tail(&self) -> &AtomicU16 {
        let base: *const BufRingEntry = self.memory.start().as_ptr().cast();
        // SAFETY: `base` is the first entry of a ring, as `tail` requires.
        let tail = unsafe { BufRingEntry::tail(base) };
        // SAFETY: aligned (offset 14 of a page) and valid as long as `self`. Both sides use atomic
        // accesses only.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }
    }
}
