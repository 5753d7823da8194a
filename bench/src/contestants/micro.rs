//! The micro workloads, written once for all runtimes.
//!
//! They need four functions of a runtime: `block_on`, which each contestant calls itself, and the
//! three of [`Tasks`]. Handles and futures are the runtime's own, so that nothing stands between
//! the workload and what is measured.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::{Micro, Task};

/// What a runtime offers without sockets.
pub(super) trait Tasks {
    type Handle<T: Send + 'static>: Future;

    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Self::Handle<T>;

    /// What a task returned, from what its handle returned: an error if the task has panicked.
    fn output<T: Send + 'static>(joined: <Self::Handle<T> as Future>::Output) -> io::Result<T>;

    fn yield_now() -> impl Future<Output = ()> + Send + 'static;

    fn sleep(duration: Duration) -> impl Future + Unpin;
}

/// Spawns tasks that do nothing, a batch at a time, and joins them.
pub(super) async fn spawn<R: Tasks>(runtime: &R, micro: Micro) -> io::Result<()> {
    let mut handles = Vec::new();
    for batch in micro.batches() {
        handles.extend((0..batch).map(|_| runtime.spawn(async { 1 })));
        let mut done = 0;
        for handle in handles.drain(..) {
            done += R::output::<u64>(handle.await)?;
        }
        micro.did(done);
    }
    Ok(())
}

/// Yields many times, in the only task.
pub(super) async fn yields<R: Tasks>(runtime: &R, micro: Micro) -> io::Result<()> {
    for batch in micro.batches() {
        let task = runtime.spawn(async move {
            let mut done = 0;
            for _ in 0..batch {
                R::yield_now().await;
                done += 1;
            }
            done
        });
        micro.did(R::output(task.await)?);
    }
    Ok(())
}

/// Arms timers of 1 to 60 seconds, each by its first poll, and drops them.
pub(super) async fn timers<R: Tasks>(_runtime: &R, micro: Micro) -> io::Result<()> {
    let mut sleeps = Vec::new();
    for batch in micro.batches() {
        sleeps.extend(
            (0..batch).map(|index| R::sleep(Duration::from_millis(1_000 + index % 59_000))),
        );
        let pending = poll_fn(|cx| {
            let pending =
                sleeps.iter_mut().map(|sleep| u64::from(Pin::new(sleep).poll(cx).is_pending()));
            Poll::Ready(pending.sum::<u64>())
        });
        micro.did(pending.await);
        sleeps.clear();
    }
    Ok(())
}

/// Runs a task that another thread wakes.
pub(super) async fn run_task<R: Tasks>(runtime: &R, task: Task) -> io::Result<()> {
    R::output(runtime.spawn(task).await)
}
