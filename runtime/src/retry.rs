//! [`Retry`]: a wait before something is tried again.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::blocking::CallGuard;
use crate::clock;
use crate::handle::LocalHandle;
use crate::time::Sleep;
use crate::timers::saturating_add;

/// Waits before something is tried again. The exit waits for it.
pub struct Retry {
    handle: LocalHandle,
    sleep: Sleep,
    _hold: CallGuard,
}

impl Retry {
    pub(crate) fn after(pause: Duration, handle: LocalHandle) -> Self {
        let hold = handle.blocking().hold();
        let sleep = Sleep::bound(saturating_add(clock::now(), pause));
        Self { handle, sleep, _hold: hold }
    }
}

impl Future for Retry {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.sleep.poll_on(|| this.handle.clone(), cx)
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("sleep", &self.sleep).finish_non_exhaustive()
    }
}
