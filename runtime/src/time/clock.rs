//! The one place where the runtime looks at the clock, so that the model of the kernel can set it.

use std::time::{Duration, Instant};

/// The monotonic clock.
pub(crate) fn now() -> Instant {
    #[cfg(feature = "model")]
    return crate::driver::model::time();
    #[cfg(not(feature = "model"))]
    Instant::now()
}

/// Sleeps with the whole thread.
pub(crate) fn pause(duration: Duration) {
    #[cfg(feature = "model")]
    crate::driver::model::pause(duration);
    #[cfg(not(feature = "model"))]
    std::thread::sleep(duration);
}
