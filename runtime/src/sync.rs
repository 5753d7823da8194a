//! What threads share is made of these and of nothing else, so that the models of `loom/`, which
//! compile the same files against a `sync` of their own, can try every interleaving of them.

use std::io::Write;

pub(crate) use std::fs::File as Eventfd;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub(crate) use crossbeam_queue::SegQueue as Queue;

/// Ends the sleep of whoever watches `eventfd`, also one that has yet to begin.
pub(crate) fn signal(mut eventfd: &Eventfd) {
    // Fails only when the counter is full, and then the owner has been woken.
    let _ = eventfd.write(&1u64.to_ne_bytes());
}
