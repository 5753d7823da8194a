//! [`RawRing`]: an io_uring with a ring of provided buffers, as thin as possible. The hand-written
//! loops use it, and the client of the echo server.
//!
//! Single-threaded, with `DEFER_TASKRUN`, and buffers of a stride that is no power of two, so that
//! their beginnings do not compete for the same cache sets.

// UNSAFETY: entries name memory to the kernel, and the buffers are shared with it.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{EnterFlags, IoUring, squeue};

/// The buffer group of the one pool of a ring.
pub(crate) const GROUP: u16 = 0;

pub(crate) struct RawRing {
    pub(crate) ring: IoUring,
    pub(crate) pool: Pool,
}

/// Sizes of a ring and its pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) submissions: u32,
    pub(crate) completions: u32,
    /// A power of two.
    pub(crate) buffers: u16,
    /// Bytes of a buffer, header and address among them.
    pub(crate) size: usize,
    /// Bytes from one buffer to the next.
    pub(crate) stride: usize,
}

impl RawRing {
    pub(crate) fn new(shape: Shape) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(shape.completions)
            .build(shape.submissions)?;
        let pool = Pool::new(shape)?;
        // SAFETY: the pool's memory is never unmapped.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                pool.entries.as_ptr().expose_provenance() as u64,
                shape.buffers,
                GROUP,
                0,
            )
        }?;
        Ok(Self { ring, pool })
    }

    /// Queues an entry, and submits those before it if the queue is full.
    ///
    /// # Safety
    ///
    /// What the entry names must stay valid until its final completion.
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: as the caller promises.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Submits, and waits until there are so many completions.
    pub(crate) fn wait_for(&self, completions: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(completions) {
            Err(error) if error.raw_os_error() != Some(libc::EINTR) => Err(error),
            _ => Ok(()),
        }
    }

    /// Submits, and lets the kernel post what it has, without waiting.
    pub(crate) fn visit(&mut self) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: `queued` entries are in the queue; no argument is passed.
        unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, flags, None) }?;
        Ok(())
    }
}

/// Buffers that the kernel fills.
pub(crate) struct Pool {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    shape: Shape,
    tail: u16,
}

impl Pool {
    /// All buffers are the kernel's from the start.
    fn new(shape: Shape) -> io::Result<Self> {
        assert!(shape.buffers.is_power_of_two(), "the kernel requires it");
        let entries = map(usize::from(shape.buffers) * size_of::<BufRingEntry>())?.cast();
        let memory = map(usize::from(shape.buffers) * shape.stride)?;
        let mut pool = Self { entries, memory, shape, tail: 0 };
        for id in 0..shape.buffers {
            pool.put_back(id);
        }
        pool.publish();
        Ok(pool)
    }

    /// The first `len` bytes of a buffer that a completion named.
    #[inline]
    pub(crate) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        let start = self.address(id);
        // SAFETY: within the mapping, initialised by it, and not written by the kernel before it is
        // given back, which needs `&mut self`.
        unsafe { slice::from_raw_parts(start, len.min(self.shape.size)) }
    }

    #[inline]
    pub(crate) fn address(&self, id: u16) -> *mut u8 {
        assert!(id < self.shape.buffers, "the kernel names only buffers that it was given");
        // SAFETY: within the mapping.
        unsafe { self.memory.as_ptr().add(usize::from(id) * self.shape.stride) }
    }

    /// Returns a buffer to the kernel, which sees it after [`publish`](Self::publish).
    #[inline]
    pub(crate) fn put_back(&mut self, id: u16) {
        let index = usize::from(self.tail & (self.shape.buffers - 1));
        let address = self.address(id);
        // SAFETY: `index` is below the number of entries.
        let entry = unsafe { self.entries.as_ptr().add(index) };
        // SAFETY: an entry past the published tail is not read by the kernel.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address.expose_provenance() as u64);
        entry.set_len(self.shape.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    #[inline]
    pub(crate) fn publish(&mut self) {
        // SAFETY: the first entry of the ring.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: aligned, valid, and accessed atomically by both sides.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Zeroed memory that stays until the process ends.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mapped at zero"))
}
