//! [`Threads`]: the threads that run blocking calls.
//!
//! The runtime has its own threads, instead of those of the `blocking` crate, which the process
//! shares. If no thread can be started, that crate tries again and again on the calling thread,
//! which blocks the loop. A forked child inherits its counts but not its threads, and would wait
//! for them for ever.
//!
//! The locks, as all in the product, are those of std, which keep no state outside of themselves.
//! parking_lot keeps its waiting threads in a table of the process, parts of which another thread
//! may have locked at a fork: with it, 10 of 1 016 forked children hung; with std, 0 of 3 000.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::limits::{BLOCKING_IDLE_MS, MAX_BLOCKING_THREADS};
use crate::panics::contain;

/// A blocking call. It reports its own panic. A panic that leaves it is caught.
pub(crate) type Call = Box<dyn FnOnce() + Send>;

/// What happens to a call that was passed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// A thread runs it, at once or when one is free.
    ToThreads,
    /// It waits, because the system starts no thread now. [`Threads::grow`] tries again.
    ToNobody,
}

/// The threads of one runtime, and the calls that wait for one.
#[derive(Default)]
pub(crate) struct Threads {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when a call was passed in, and when the runtime has ended.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    calls: VecDeque<Call>,
    threads: usize,
    /// How many of the threads wait for a call.
    idle: usize,
    /// True after the runtime has ended.
    closed: bool,
}

impl Threads {
    /// Queues a call for the first thread that is free.
    pub(crate) fn hand(&self, call: Call) -> Handed {
        {
            let mut state = self.shared.lock();
            if state.closed {
                drop(state);
                // Third-party code, dropped when nothing is locked.
                drop(call);
                return Handed::ToThreads;
            }
            state.calls.push_back(call);
        }
        self.grow()
    }

    /// Starts a thread if calls wait and no thread is idle.
    pub(crate) fn grow(&self) -> Handed {
        {
            let mut state = self.shared.lock();
            if state.calls.len() <= state.idle {
                self.shared.changed.notify_one();
                return Handed::ToThreads;
            }
            if state.threads >= MAX_BLOCKING_THREADS {
                return Handed::ToThreads;
            }
            state.threads += 1;
        }
        let shared = Arc::clone(&self.shared);
        let started =
            thread::Builder::new().name("ebbtide-blocking".into()).spawn(move || shared.run());
        match started {
            Ok(_) => Handed::ToThreads,
            Err(_) => {
                self.shared.lock().threads -= 1;
                Handed::ToNobody
            }
        }
    }

    /// The runtime has ended. Threads end when they have run the queued calls. If there is no
    /// thread, these calls never run.
    pub(crate) fn close(&self) {
        let calls = {
            let mut state = self.shared.lock();
            state.closed = true;
            match state.threads {
                0 => std::mem::take(&mut state.calls),
                _ => VecDeque::new(),
            }
        };
        self.shared.changed.notify_all();
        // Third-party code, dropped when nothing is locked.
        drop(calls);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No third-party code runs while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does.
    fn run(&self) {
        let mut state = self.lock();
        loop {
            if let Some(call) = state.calls.pop_front() {
                drop(state);
                contain(call);
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let idle = Duration::from_millis(BLOCKING_IDLE_MS);
            let (woken, waited) =
                self.changed.wait_timeout(state, idle).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.calls.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Threads")
            .field("threads", &state.threads)
            .field("idle", &state.idle)
            .field("calls", &state.calls.len())
            .finish_non_exhaustive()
    }
}
