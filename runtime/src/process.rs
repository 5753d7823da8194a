//! [`Process`]: which process this is, without a system call. A forked child uses it to recognize
//! what was made before the fork(2).

// UNSAFETY: mmap and madvise have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::num::NonZeroU32;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// A process, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(NonZeroU32);

/// Points to the id of this process, in memory that the kernel clears in a forked child
/// (`MADV_WIPEONFORK`, Linux 4.14; docs/kernel.md, K-FORK-2). That includes children that were made
/// by clone(2) without libc, which would run no at-fork handler. Null until it is needed. It points
/// to [`UNKNOWN`] if there is no such memory.
static PLACE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// Always 0: the kernel is asked each time.
static UNKNOWN: AtomicU32 = AtomicU32::new(0);

impl Process {
    /// This process. Async-signal-safe.
    #[inline]
    pub(crate) fn current() -> Self {
        // SAFETY: null, or a pointer to memory that stays for ever.
        let place = unsafe { PLACE.load(Ordering::Acquire).as_ref() };
        let id = place.and_then(|place| NonZeroU32::new(place.load(Ordering::Relaxed)));
        id.map_or_else(Self::look_up, Self)
    }

    pub(crate) fn id(self) -> u32 {
        self.0.get()
    }

    #[cold]
    fn look_up() -> Self {
        let id = process::id();
        let mut place = PLACE.load(Ordering::Acquire);
        if place.is_null() {
            let made = wiped_on_fork().unwrap_or((&raw const UNKNOWN).cast_mut());
            // If another thread was faster, its page is used, and this one stays unused.
            let known = PLACE.compare_exchange(place, made, Ordering::AcqRel, Ordering::Acquire);
            place = known.map_or_else(|known| known, |_| made);
        }
        if !ptr::eq(place, &raw const UNKNOWN) {
            // SAFETY: not null, and the memory stays for ever.
            unsafe { &*place }.store(id, Ordering::Relaxed);
        }
        Self(NonZeroU32::new(id).expect("no process has the id 0"))
    }
}

/// Zeroed memory that is zeroed again in a forked child. `None` if the kernel does not support it.
fn wiped_on_fork() -> Option<*mut AtomicU32> {
    const LEN: usize = size_of::<AtomicU32>();
    if cfg!(miri) {
        return None;
    }
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous private mapping at an address that the kernel chooses.
    let page = unsafe { libc::mmap(ptr::null_mut(), LEN, access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the range is the mapping just made.
    if unsafe { libc::madvise(page, LEN, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: the range is the mapping just made, and nobody else has it.
        unsafe { libc::munmap(page, LEN) };
        return None;
    }
    Some(page.cast())
}
