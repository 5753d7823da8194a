//! [`Builder`]: the setters of all limits that a user can change.

use crate::drain::Drain;
use crate::driver::DriverChoice;
use crate::limits::Limits;

/// Builds a [`Runtime`](crate::Runtime). The defaults suit a server with a few busy sockets.
///
/// ```
/// use ebbtide::Runtime;
///
/// let runtime = Runtime::builder().buffers(64).buffer_size(2048).build()?;
/// assert_eq!(runtime.block_on(async { 1 + 1 }), 2);
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Builder {
    pub(crate) limits: Limits,
    pub(crate) drain: Drain,
    pub(crate) driver: DriverChoice,
}

impl Builder {
    /// How many operations can be queued before the kernel is entered.
    ///
    /// 2 to 32768, rounded up to a power of two; the default is 256. A smaller queue costs more
    /// system calls. No operation is lost.
    pub fn submission_entries(mut self, entries: usize) -> Self {
        self.limits.submission_entries = entries;
        self
    }

    /// How many completions the kernel can post before it has to keep some outside the queue.
    ///
    /// 2 to 65536, rounded up to a power of two and raised to `submission_entries`. By default, the
    /// number of buffers plus twice `submission_entries`, so that the queue hardly ever overflows.
    /// A smaller queue loses nothing.
    pub fn completion_entries(mut self, entries: usize) -> Self {
        self.limits.completion_entries = Some(entries);
        self
    }

    /// How many received datagrams can be in memory at once, in inboxes and in the program. Further
    /// datagrams wait in the kernel's queues.
    ///
    /// 1 to 32768; the default is 512.
    pub fn buffers(mut self, count: usize) -> Self {
        self.limits.buffers = count;
        self
    }

    /// The largest payload in bytes that is received whole. A longer datagram is truncated, marked
    /// and counted.
    ///
    /// 1 to 1048576; the default is 65536, which fits every UDP datagram. Only memory that
    /// datagrams fill is used.
    pub fn buffer_size(mut self, bytes: usize) -> Self {
        self.limits.buffer_size = bytes;
        self
    }

    /// How many tasks are polled before the loop looks at completions and timers again.
    ///
    /// At least 1; the default is 256.
    pub fn tasks_per_turn(mut self, tasks: usize) -> Self {
        self.limits.tasks_per_turn = tasks;
        self
    }

    /// How much one poll of a task can do before the task has to let others run.
    ///
    /// It can finish this many receives, this many sends, and this many other operations that are
    /// ready without waiting: deadlines that have passed, tasks that have ended. A send counts as
    /// one more for each 256 bytes. At least 1; the default is 128.
    pub fn operations_per_poll(mut self, operations: u32) -> Self {
        self.limits.operations_per_poll = operations;
        self
    }

    /// The driver to use. The default is [`DriverChoice::Auto`].
    pub fn driver(mut self, choice: DriverChoice) -> Self {
        self.driver = choice;
        self
    }

    /// The policy with which the runtime is drained when it is dropped.
    pub fn drain(mut self, policy: Drain) -> Self {
        self.drain = policy;
        self
    }
}
