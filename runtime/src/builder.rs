//! [`Builder`]: every limit of a runtime, named and validated.

use crate::drain::Drain;
use crate::driver::DriverChoice;
use crate::limits::Limits;

/// Makes a [`Runtime`](crate::Runtime). The defaults are for a server with a few busy sockets.
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
    /// How many operations can be queued before the kernel is entered: 2 to 32768, rounded up to a
    /// power of two; 256 unless set. A smaller queue costs more system calls, never an operation.
    pub fn submission_entries(mut self, entries: usize) -> Self {
        self.limits.submission_entries = entries;
        self
    }

    /// How many completions the kernel can post before it has to put some aside: 2 to 65536,
    /// rounded up to a power of two and raised to `submission_entries`. Unless set, as many as the
    /// buffers and twice the submission queue: it hardly ever overflows. A smaller one loses
    /// nothing.
    pub fn completion_entries(mut self, entries: usize) -> Self {
        self.limits.completion_entries = Some(entries);
        self
    }

    /// How many received datagrams can be held at once, in inboxes and by the program, before
    /// further ones wait in their sockets: 1 to 32768; 512 unless set.
    pub fn buffers(mut self, count: usize) -> Self {
        self.limits.buffers = count;
        self
    }

    /// Largest payload in bytes that is received whole; longer datagrams are truncated, marked and
    /// counted. 1 to 1048576; 65536 unless set, which holds every UDP datagram. Memory is used only
    /// as far as datagrams fill it.
    pub fn buffer_size(mut self, bytes: usize) -> Self {
        self.limits.buffer_size = bytes;
        self
    }

    /// How many tasks are polled before the loop looks at completions and timers again; at least 1,
    /// 256 unless set.
    pub fn tasks_per_turn(mut self, tasks: usize) -> Self {
        self.limits.tasks_per_turn = tasks;
        self
    }

    /// How many receives, how many sends, and how much else that is ready without waiting (deadlines
    /// that have passed, tasks that have ended) one poll of a task can finish before the task has to
    /// let others run; at least 1, 128 unless set. A send counts one more for each 256 bytes.
    pub fn operations_per_poll(mut self, operations: u32) -> Self {
        self.limits.operations_per_poll = operations;
        self
    }

    /// Which driver to use; [`DriverChoice::Auto`] unless set.
    pub fn driver(mut self, choice: DriverChoice) -> Self {
        self.driver = choice;
        self
    }

    /// How the runtime is drained when it is dropped.
    pub fn drain(mut self, policy: Drain) -> Self {
        self.drain = policy;
        self
    }
}
