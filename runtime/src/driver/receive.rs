//! What a socket asks of the driver for its receive. Every call is short, and what it must drop or
//! wake happens after its borrow.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::sink::{Sink, Wakes};
use super::{MultishotKey, Wait};
use crate::handle::Handle;
use crate::limits::REAP_LIMIT_MS;

impl Handle {
    /// Takes in a sink, whose receive is not armed yet. To be undone by
    /// [`remove_sink`](Self::remove_sink).
    pub fn add_sink(&self, sink: Rc<dyn Sink>) -> MultishotKey {
        self.driver().register(sink)
    }

    /// Arms the receive of a sink, unless it is armed.
    pub fn arm(&self, key: MultishotKey) {
        self.driver().arm(key);
    }

    /// Asks for the end of a receive; completions go on until the final one.
    pub fn cancel(&self, key: MultishotKey) {
        self.driver().cancel(key);
    }

    /// Whether the kernel has nothing of the sink.
    pub fn is_reaped(&self, key: MultishotKey) -> bool {
        self.driver().is_reaped(key)
    }

    /// Cancels the receive of a sink, waits for its final completion, and lets the sink go. Short
    /// by nature: a receive waits for a poll, and cancelling that never blocks.
    pub fn remove_sink(&self, key: MultishotKey) {
        let mut wakes = Wakes::default();
        self.driver().cancel(key);
        let deadline = Instant::now() + Duration::from_millis(REAP_LIMIT_MS);
        while !self.driver().is_reaped(key) && Instant::now() < deadline {
            let mut driver = self.driver();
            driver.submit_and_wait(Wait::AtMost(Duration::from_millis(100)));
            driver.collect(&mut wakes);
        }
        let sink = self.driver().deregister(key);
        wakes.run();
        drop(sink);
    }

    /// Enters the kernel without waiting and takes in what it has: for those who want to know what
    /// is queued now.
    pub fn collect_now(&self) {
        let mut wakes = Wakes::default();
        {
            let mut driver = self.driver();
            driver.submit_and_wait(Wait::No);
            driver.collect(&mut wakes);
        }
        wakes.run();
    }
}
