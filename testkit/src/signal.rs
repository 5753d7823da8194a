//! Signals, for tests in a separate process.

// UNSAFETY: raising a signal, handlers and timers have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Sends a signal to this thread. When this returns, the handler has run. `kill` does not guarantee
/// that.
pub fn send(signal: i32) {
    // SAFETY: takes a number.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// The time between two signals in nanoseconds, for 10 kHz.
const PERIOD_NS: i64 = 100_000;

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Sends 10 000 signals a second to the thread that made it, until it is dropped. Interrupted calls
/// are not restarted.
#[derive(Debug)]
pub struct Storm(libc::timer_t);

impl Storm {
    /// Starts the signals.
    #[expect(clippy::new_without_default, reason = "it installs a handler")]
    pub fn new() -> Self {
        // SAFETY: an all-zero sigaction is valid. No SA_RESTART.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = count as *const () as usize;
        // SAFETY: the handler lives for ever, and touches an atomic only.
        let result = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) };
        assert_eq!(result, 0);

        // SAFETY: an all-zero sigevent is valid.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGALRM;
        // SAFETY: takes nothing.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers name what lives until the call returns.
        let result =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        assert_eq!(result, 0);
        let period = libc::timespec { tv_sec: 0, tv_nsec: PERIOD_NS };
        let setting = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: the timer was just made; the setting lives until the call returns.
        let result = unsafe { libc::timer_settime(timer, 0, &raw const setting, ptr::null_mut()) };
        assert_eq!(result, 0);
        Self(timer)
    }

    /// The number of signals that this process has handled so far.
    pub fn signals() -> u64 {
        SIGNALS.load(Ordering::Relaxed)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // SAFETY: the timer is ours.
        unsafe { libc::timer_delete(self.0) };
    }
}
