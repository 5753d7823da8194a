//! [`UnderWay`]: how many blocking calls hold up the exit.
//!
//! A call is held by two: by the call itself, on its thread, and by the task that takes its result.
//! The task lets go last, on the thread of the runtime, where the loop looks at the count before it
//! sleeps: nobody has to be woken for it. `loom/` shows that the end misses no result.

use std::sync::Arc;

use crate::sync::{AtomicUsize, Ordering};

#[derive(Default)]
pub(crate) struct UnderWay {
    calls: Arc<AtomicUsize>,
}

impl UnderWay {
    /// How many calls hold up the exit.
    pub(crate) fn count(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn hold(&self) -> Hold {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Hold { calls: Arc::clone(&self.calls) }
    }
}

/// Holds up the exit while it exists, on whichever thread.
pub(crate) struct Hold {
    calls: Arc<AtomicUsize>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::SeqCst);
    }
}
