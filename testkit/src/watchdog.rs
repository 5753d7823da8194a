//! Ends a test run that hangs.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// Ends the test run if it takes far longer than is possible without a hang. It does not judge
/// speed.
#[must_use]
#[derive(Debug)]
pub struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    /// Watches until it is dropped. `what` is printed if the run has to be ended.
    pub fn new(what: impl Into<String>) -> Self {
        Self::with_patience(what, Duration::from_secs(240))
    }

    /// Does what [`new`](Self::new) does, with another time limit.
    pub fn with_patience(what: impl Into<String>, patience: Duration) -> Self {
        let patience = crate::wait::patience(patience);
        let (alive, ended) = channel();
        let what = what.into();
        thread::spawn(move || {
            if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                eprintln!("a test hangs: {what}");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}
