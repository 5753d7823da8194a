//! [`BlockingCalls`]: how many blocking calls the exit waits for.
//!
//! Two guards count a call: that of the call itself, on its thread, and that of the task that takes
//! its result. The task releases its guard last, on the thread of the runtime, and the loop looks
//! at the count before it sleeps. So no wake is needed. `loom/` shows that the end misses no
//! result.

use std::sync::Arc;

use crate::sync::{AtomicUsize, Ordering};

#[derive(Default)]
pub(crate) struct BlockingCalls {
    calls: Arc<AtomicUsize>,
}

impl BlockingCalls {
    /// How many calls the exit waits for.
    pub(crate) fn count(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn hold(&self) -> CallGuard {
        self.calls.fetch_add(1, Ordering::SeqCst);
        CallGuard { calls: Arc::clone(&self.calls) }
    }
}

/// The exit waits while it exists, on any thread.
pub(crate) struct CallGuard {
    calls: Arc<AtomicUsize>,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::SeqCst);
    }
}
