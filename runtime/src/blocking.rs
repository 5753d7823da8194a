//! [`spawn_blocking`]: for calls that block. The threads are those of the `blocking` crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_task::Runnable;

use crate::handle::Handle;
use crate::task::{Inbox, JoinHandle};

/// Runs `call` on a thread of its own pool, where it may block.
///
/// The exit waits for the call, up to the drain's deadline, also if its handle was dropped. Nothing
/// stops it: aborting its handle does nothing. A panic in it arrives as a
/// [`JoinError`](crate::JoinError).
///
/// # Panics
///
/// Outside a runtime.
///
/// ```
/// ebbtide_runtime::run(async {
///     let sum = ebbtide_runtime::spawn_blocking(|| (1..=10).sum::<u32>()).await?;
///     assert_eq!(sum, 55);
///     std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub fn spawn_blocking<F, T>(call: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let handle = Handle::current();
    let under_way = Arc::new(handle.blocking().start());
    let until_taken = Arc::clone(&under_way);
    // Started here, not at the first poll: the caller may block the loop before that.
    let call = blocking::unblock(move || {
        let _under_way = under_way;
        call()
    });
    let taken = async move {
        let result = call.await;
        // Until here, or the runtime could end between the end of the call and the wake for it.
        drop(until_taken);
        result
    };
    handle.spawn(taken).unstoppable()
}

/// The blocking calls of a runtime.
pub(crate) struct Blocking {
    calls: Arc<Calls>,
}

struct Calls {
    under_way: AtomicUsize,
    /// For telling a drain that waits for the last call.
    inbox: Arc<Inbox<Runnable>>,
}

impl Blocking {
    pub(crate) fn new(inbox: Arc<Inbox<Runnable>>) -> Self {
        Self { calls: Arc::new(Calls { under_way: AtomicUsize::new(0), inbox }) }
    }

    /// How many calls hold up the exit.
    pub(crate) fn under_way(&self) -> usize {
        self.calls.under_way.load(Ordering::SeqCst)
    }

    fn start(&self) -> UnderWay {
        self.calls.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay { calls: Arc::clone(&self.calls) }
    }
}

/// Holds up the exit while it exists, on whichever thread.
struct UnderWay {
    calls: Arc<Calls>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.calls.under_way.fetch_sub(1, Ordering::SeqCst);
        self.calls.inbox.wake();
    }
}
