//! [`spawn_blocking`]: for calls that block. The threads are those of the `blocking` crate.

use std::sync::Arc;

use crate::handle::Handle;
use crate::task::JoinHandle;

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
    let until_ended = Arc::new(handle.blocking().hold());
    let until_taken = Arc::clone(&until_ended);
    // Started here, not at the first poll: the caller may block the loop before that.
    let call = blocking::unblock(move || {
        let _until_ended = until_ended;
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
