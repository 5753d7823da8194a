//! [`spawn_blocking`]: for calls that block. The threads are those of the `blocking` crate.

use crate::handle::Handle;
use crate::task::JoinHandle;

/// Runs `call` on a thread of its own pool, where it may block.
///
/// The exit waits for it, up to the drain's deadline. A panic in it arrives as a
/// [`JoinError`](crate::JoinError). Aborting its handle has no effect once it runs.
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
    // Started here, not at the first poll: the caller may block the loop before that.
    let call = blocking::unblock(call);
    let under_way = UnderWay::new(handle.clone());
    handle.spawn(async move {
        let _under_way = under_way;
        call.await
    })
}

/// Holds up the exit while it exists.
struct UnderWay {
    handle: Handle,
}

impl UnderWay {
    fn new(handle: Handle) -> Self {
        handle.ledger().blocking_started();
        Self { handle }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.handle.ledger().blocking_ended();
    }
}
