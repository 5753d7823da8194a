//! [`spawn_blocking`]: calls that block, on threads of their own.

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

/// Runs `call` on a thread of its own, where it may block.
///
/// The threads are the runtime's, 512 at most; further calls wait until one is free. Where the system
/// starts no thread, because a limit is reached (`RLIMIT_NPROC`, the `pids` limit of a container),
/// the call waits until it does, and the loop goes on.
///
/// The exit waits for the call, up to the drain's deadline, also if its handle was dropped. Nothing
/// stops it: aborting its handle does nothing. One for which the system has started no thread by then
/// never runs. A panic in it arrives as a [`JoinError`](crate::JoinError).
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
    // Until the result was taken, or the runtime could end between the end of the call and the wake
    // for it.
    let until_taken = Arc::clone(&until_ended);
    let result = Arc::new(Slot::default());
    let slot = Arc::clone(&result);
    // Handed in here, not at the first poll: the caller may block the loop before that.
    let handed = handle.threads().hand(Box::new(move || {
        let result = catch(call);
        // Before the task is woken, which lets go last: nobody wakes the loop for this.
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

/// Tries to start a thread from time to time, until one takes the call or another has ended it.
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
