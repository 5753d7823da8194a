//! The only place where the runtime reads the clock, so that the model of the kernel can set it.

use std::time::{Duration, Instant};

/// The present, on the monotonic clock.
pub(crate) fn now() -> Instant {
    #[cfg(ebbtide_model)]
    return crate::model::time();
    #[cfg(not(ebbtide_model))]
    Instant::now()
}

/// Blocks the thread for `duration`.
pub(crate) fn pause(duration: Duration) {
    #[cfg(ebbtide_model)]
    crate::model::pause(duration);
    #[cfg(not(ebbtide_model))]
    std::thread::sleep(duration);
}
