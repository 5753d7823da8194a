//! [`Shared`]: counters that the receiver and the load generator both see.
//!
//! They are two processes, so the counters lie in memory that is mapped shared before the fork.
//! They are how the load is flow-controlled: the generator never sends more than a window ahead of
//! what the receiver has published.

// UNSAFETY: shared memory is mapped by a raw call, and then read through a reference.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most sockets of one measurement that receive anything.
pub(crate) const MOST_ACTIVE: usize = 128;

/// A counter on a cache line of its own.
#[repr(align(64))]
pub(crate) struct Slot(pub(crate) AtomicU64);

#[repr(C)]
pub(crate) struct Shared {
    /// Datagrams whose send has returned. Written by the generator.
    pub(crate) sent: Slot,
    /// What had been sent when the program was to end. Written once, by the process that
    /// decides it.
    pub(crate) sent_at_exit: Slot,
    /// What had been received then.
    pub(crate) received_at_exit: Slot,
    /// Datagrams received, one count per socket, published now and then. Written by the receiver.
    pub(crate) received: [Slot; MOST_ACTIVE],
}

impl Shared {
    /// The end of the program has been decided: what was sent before this moment is in the socket's
    /// queue, or was received.
    pub(crate) fn mark_exit(&self) {
        let received = self.received[0].0.load(Ordering::Acquire);
        self.received_at_exit.0.store(received, Ordering::Relaxed);
        self.sent_at_exit.0.store(self.sent.0.load(Ordering::Acquire), Ordering::Release);
    }
}

/// Maps the counters, all zero, for as long as the process lives.
pub(crate) fn map() -> io::Result<&'static Shared> {
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<Shared>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: page-aligned, large enough, never unmapped; zero bytes are valid atomics, and nothing
    // but atomics is in it, so that another process may write at any time.
    Ok(unsafe { &*memory.cast::<Shared>() })
}
