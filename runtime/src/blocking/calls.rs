//! [`BlockingCalls`]: how many blocking calls hold up the exit.
//!
//! A call is held by two: by the call itself, on its thread, and by the task that takes its result.
//! The task lets go last, on the thread of the runtime, where the loop looks at the count before it
//! sleeps: nobody has to be woken for it. `loom/` shows that the end misses no result.

use std::sync::Arc;

use crate::sync::{AtomicUsize, Ordering};

#[derive(Default)]
pub(crate) struct BlockingCalls {
    calls: Arc<AtomicUsize>,
}

impl BlockingCalls {
    /// How many calls hold up the exit.
    pub(crate) fn count(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn hold(&self) -> CallGuard {
        self.calls.fetch_add(1, Ordering::SeqCst);
        CallGuard { calls: Arc::clone(&self.calls) }
    }
}

/// Holds up the exit while it exists, on whichever thread.
pub(crate) struct CallGuard {
    calls: Arc<AtomicUsize>,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::SeqCst);
    }
}
