//! [`spawn_blocking`]: runs calls that block on other threads.

use std::future::poll_fn;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::blocking::Handed;
use crate::handle::LocalHandle;
use crate::limits::BLOCKING_RETRY_MS;
use crate::panics::{Payload, catch};
use crate::retry::Retry;
use crate::task::JoinHandle;

/// Runs `call` on another thread, where it may block.
///
/// The runtime starts up to 512 threads for such calls. Further calls wait until a thread is free.
/// If the system refuses to start a thread (`RLIMIT_NPROC`, the `pids` limit of a container), the
/// call waits until one can be started. The loop goes on meanwhile.
///
/// The exit waits for the call, up to the drain's deadline, even if the handle was dropped. A call
/// cannot be stopped: aborting its handle does nothing. A call for which no thread could be started
/// by the deadline never runs. If the call panics, the handle returns a
/// [`JoinError`](crate::JoinError).
///
/// # Panics
///
/// Outside a runtime.
///
/// ```
/// ebbtide::run(async {
///     let sum = ebbtide::spawn_blocking(|| (1..=10).sum::<u32>()).await?;
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
    let handle = LocalHandle::current();
    let until_ended = Arc::new(handle.blocking().hold());
    // Held until the result was taken: the runtime could otherwise end between the end of the call
    // and the wake of the task.
    let until_taken = Arc::clone(&until_ended);
    let result = Arc::new(Slot::default());
    let slot = Arc::clone(&result);
    // Handed over here, not at the first poll: the caller may block the loop before that.
    let handed = handle.threads().hand(Box::new(move || {
        let result = catch(call);
        // Released before the task is woken. The task releases its own guard last; no other wake
        // follows.
        drop(until_ended);
        slot.fill(result);
    }));
    let home = handle.clone();
    let taken = async move {
        if handed == Handed::ToNobody {
            wait_for_a_thread(&home, &result).await;
        }
        let result = poll_fn(|cx| result.poll(cx)).await;
        drop(until_taken);
        result.unwrap_or_else(|panic| resume_unwind(panic.into_inner()))
    };
    handle.spawn(taken).unstoppable()
}

/// Tries to start a thread from time to time, until one takes the call or has ended it.
async fn wait_for_a_thread<T>(handle: &LocalHandle, result: &Slot<T>) {
    while !result.is_filled() && handle.threads().grow() == Handed::ToNobody {
        Retry::after(Duration::from_millis(BLOCKING_RETRY_MS), handle.clone()).await;
    }
}

/// Where the result of a call waits for its task.
struct Slot<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    result: Option<Result<T, Payload>>,
    waker: Option<Waker>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { result: None, waker: None }) }
    }
}

impl<T> Slot<T> {
    fn fill(&self, result: Result<T, Payload>) {
        let waker = {
            let mut state = self.lock();
            state.result = Some(result);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn is_filled(&self) -> bool {
        self.lock().result.is_some()
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Result<T, Payload>> {
        // Cloned before and dropped after the lock: wakers are third-party code.
        let waker = cx.waker().clone();
        let _replaced = {
            let mut state = self.lock();
            if let Some(result) = state.result.take() {
                return Poll::Ready(result);
            }
            state.waker.replace(waker)
        };
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
