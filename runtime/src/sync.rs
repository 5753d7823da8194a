//! What threads share consists of these types. The models of `loom/` compile the same files with
//! another `sync`, to try every interleaving.

use std::io::Write;

pub(crate) use std::fs::File as Eventfd;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub(crate) use crossbeam_queue::SegQueue as Queue;

/// Ends the sleep of the thread that watches `eventfd`, or the next sleep.
pub(crate) fn signal(mut eventfd: &Eventfd) {
    // This fails only if the counter is full, and then the owner was woken.
    let _ = eventfd.write(&1u64.to_ne_bytes());
}
