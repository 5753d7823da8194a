//! The runtimes that a signal handler wakes: a list that the handler can read at any time, without
//! a lock.
//!
//! Entries are never freed, and their descriptors are never closed: a handler that has just read a
//! descriptor number must not write to another file that got the number meanwhile. Entries are
//! reused. There are as many as runtimes have listened at the same time.

// UNSAFETY: a signal handler reads the list by pointers, and writes to a descriptor by its number.
#![expect(unsafe_code, reason = "argued above")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

use crate::process::Process;

static FIRST: AtomicPtr<Listener> = AtomicPtr::new(ptr::null_mut());

struct Listener {
    /// Which process uses the entry, and for what: see [`state`].
    state: AtomicU64,
    /// A second descriptor of the runtime's eventfd.
    number: AtomicI32,
    /// Written before the entry is in the list, and never again.
    next: AtomicPtr<Listener>,
}

#[derive(Clone, Copy)]
enum Use {
    Vacant,
    /// A thread is about to use it.
    Claimed,
    Listening,
}

/// The state of an entry that `process` uses in this way.
fn state(process: Process, used: Use) -> u64 {
    u64::from(process.id()) << 2 | used as u64
}

/// A runtime in the list. It is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Listening {
    listener: &'static Listener,
    process: Process,
}

impl Listening {
    /// Makes signals wake the owner of `eventfd` from now on.
    ///
    /// # Errors
    ///
    /// If no descriptor is left.
    pub(super) fn new(eventfd: &File) -> io::Result<Self> {
        let process = Process::current();
        let listener = match claim(process) {
            Some(listener) => listener.point_to(eventfd, process)?,
            None => add(eventfd)?,
        };
        listener.state.store(state(process, Use::Listening), Ordering::SeqCst);
        Ok(Self { listener, process })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // In a forked child, the entry may be in use again.
        if self.process == Process::current() {
            self.listener.state.store(state(self.process, Use::Vacant), Ordering::SeqCst);
        }
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Listener {
    /// Makes the entry's number refer to `eventfd`. Only for the thread that has claimed the entry.
    fn point_to(&'static self, eventfd: &File, process: Process) -> io::Result<&'static Self> {
        let number = self.number.load(Ordering::SeqCst);
        // SAFETY: the number belongs to the entry for ever, or is -1.
        if unsafe { libc::dup3(eventfd.as_raw_fd(), number, libc::O_CLOEXEC) } >= 0 {
            return Ok(self);
        }
        match eventfd.try_clone() {
            Ok(copy) => self.number.store(copy.into_raw_fd(), Ordering::SeqCst),
            Err(error) => {
                self.state.store(state(process, Use::Vacant), Ordering::SeqCst);
                return Err(error);
            }
        }
        Ok(self)
    }
}

/// Claims an entry that is vacant, or is only used by the process from which this one was forked.
fn claim(process: Process) -> Option<&'static Listener> {
    entries().find(|listener| {
        let known = listener.state.load(Ordering::SeqCst);
        let is_inherited = known >> 2 != u64::from(process.id());
        if !is_inherited && known != state(process, Use::Vacant) {
            return false;
        }
        let claimed = state(process, Use::Claimed);
        let exchanged =
            listener.state.compare_exchange(known, claimed, Ordering::SeqCst, Ordering::SeqCst);
        if exchanged.is_ok() && is_inherited {
            // The child may have closed the descriptor, and the number may be another file's.
            listener.number.store(-1, Ordering::SeqCst);
        }
        exchanged.is_ok()
    })
}

/// Adds an entry, which nobody else can claim.
fn add(eventfd: &File) -> io::Result<&'static Listener> {
    let number = eventfd.try_clone()?.into_raw_fd();
    let listener: &'static Listener = Box::leak(Box::new(Listener {
        state: AtomicU64::new(state(Process::current(), Use::Claimed)),
        number: AtomicI32::new(number),
        next: AtomicPtr::new(ptr::null_mut()),
    }));
    let mut first = FIRST.load(Ordering::SeqCst);
    loop {
        listener.next.store(first, Ordering::SeqCst);
        let new = ptr::from_ref(listener).cast_mut();
        match FIRST.compare_exchange(first, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return Ok(listener),
            Err(changed) => first = changed,
        }
    }
}

fn entries() -> impl Iterator<Item = &'static Listener> {
    // SAFETY: entries are never freed, and they are complete before they are in the list.
    let entry = |pointer: &AtomicPtr<Listener>| unsafe { pointer.load(Ordering::SeqCst).as_ref() };
    std::iter::successors(entry(&FIRST), move |listener| entry(&listener.next))
}

/// Wakes every runtime of this process that listens. Async-signal-safe.
pub(super) fn wake_all(process: Process) {
    let one = 1u64.to_ne_bytes();
    for listener in entries() {
        if listener.state.load(Ordering::SeqCst) == state(process, Use::Listening) {
            let number = listener.number.load(Ordering::SeqCst);
            // This fails only if the counter is full, and then the owner was woken.
            // SAFETY: the pointer and the length are those of the bytes. The number is one of our
            // eventfds for ever.
            unsafe { libc::write(number, one.as_ptr().cast(), one.len()) };
        }
    }
}
