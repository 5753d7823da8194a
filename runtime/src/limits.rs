//! The limits of the runtime, with their reasons.
//!
//! Limits that a user can change are fields of `Limits`, each with a setter on
//! [`Builder`](crate::Builder). Limits of the loop, the driver, the pool and the drain are
//! constants in this file. The deadline of a drain is changed by [`Drain`](crate::Drain); its
//! default is here.
//!
//! A limit of one system call or one type is a constant at the top of its file, among them:
//!
//! - in this crate: datagrams in a read of epoll (`driver/epoll.rs`), messages in a recvmmsg
//!   (`driver/receive/recvmmsg.rs`), the window of the pool (`buffer/window.rs`), how long a task is
//!   assumed to have work (`task/activity.rs`);
//! - in `ebbtide-net`: how far an unsealed socket is read (`datagram/receive/seal.rs`), how much a
//!   coalescing socket keeps (`datagram/send/coalescer.rs`), how long and how many the segments of a
//!   message may be (`datagram/send/plan.rs`), messages in a sendmmsg (`sys/message.rs`).

use std::io;

/// Maximum number of buffers of a pool. Buffer ids are 15 bits wide in the kernel
/// (`io_uring_register_buf_ring(3)`).
pub(crate) const MAX_BUFFERS: usize = 1 << 15;

/// Maximum number of entries of a submission queue in the kernel (`IORING_MAX_ENTRIES`).
pub(crate) const MAX_SUBMISSION_ENTRIES: usize = 1 << 15;

/// Maximum number of entries of a completion queue in the kernel (`IORING_MAX_CQ_ENTRIES`).
pub(crate) const MAX_COMPLETION_ENTRIES: usize = 1 << 16;

/// Bytes of each buffer for what precedes the payload: the kernel's header (16), the longest
/// address (110, a Unix one) and control messages. They also make the distance of buffers odd:
/// buffers that are 64 KiB apart would all compete for one cache set.
pub(crate) const BUFFER_OVERHEAD: usize = 256;

/// Maximum payload of a buffer in bytes. A Unix datagram can be as long as the send buffer allows;
/// 1 MiB is five times the default send buffer.
pub(crate) const MAX_BUFFER_SIZE: usize = 1 << 20;

/// Consecutive errors after which the drain gives a socket up, and reports that.
///
/// A pending socket error is returned before the datagrams, and is cleared by that (docs/kernel.md,
/// K-UDP-4). Somebody who forges ICMP answers to a connected socket can cause the next error at
/// once. If nine in ten reads return an error, 64 errors in a row happen once in a thousand times;
/// this many never do. Reading a descriptor that cannot be read fails as often within some ten
/// milliseconds, so no list of errnos is needed to tell the two cases apart.
pub const MAX_DRAIN_ERRORS: u32 = 65_536;

/// How many datagrams are read from a sealed socket at once: by the drain before it goes to the
/// next socket, and for receivers that have taken all that was read before. At most `READ_BATCH`: one recvmmsg reads no
/// more.
pub const DRAIN_READ_BATCH: usize = 64;

/// How often a turn enters the kernel again for datagrams that the last enter left behind, if tasks
/// of the same thread have sent that many.
///
/// It is more than the budget of a poll. Each empty datagram costs its receiver one round, and a
/// sender of empty datagrams must not outrun a receiver on the same thread.
pub(crate) const ROUNDS_PER_TURN: u64 = 256;

/// How many datagrams of each socket one visit to the kernel brings at most: 33 with a ring that
/// has `DEFER_TASKRUN` (docs/kernel.md, K-RECV-3), 32 with epoll (`DATAGRAMS_AT_ONCE` there).
pub(crate) const DATAGRAMS_PER_ROUND: u64 = 32;

/// Bytes of a send that count as one more operation of the budget of a poll.
///
/// With the default budget, a task sends no more than a receive buffer of the default size holds
/// before receivers on the same thread run: 128 small datagrams, 22 of 1472 bytes, 4 of 9000, or
/// one of 64 KiB. The buffer is charged for memory, which is more than the payload (docs/kernel.md,
/// K-UDP-1). Several senders together can send more than that.
pub const SEND_BUDGET_BYTES: usize = 256;

/// Turns after which starved receives are armed again for any free buffer, although the loop is
/// busy.
pub(crate) const MOST_TURNS_STARVED: u32 = 16;

/// How long a send that found no buffer space waits before it is tried again, if no descriptor or
/// memory is left to wait for buffer space.
pub const SEND_RETRY_MS: u64 = 2;

/// How long the thread sleeps if the kernel has no memory for a request.
pub(crate) const REFUSED_PAUSE_MS: u64 = 1;

/// How long a ring that the kernel refuses because of the limit of locked memory is tried again
/// before it is halved. The memory of closed rings is returned asynchronously (docs/kernel.md,
/// K-RING-8).
pub(crate) const START_RETRY_MS: u64 = 1_000;

/// How long each smaller ring is then tried. It is longer than the memory of the previous attempt
/// takes to return, if that had been registered: 36 ms were seen (docs/kernel.md, K-RING-8).
pub(crate) const SMALLER_RETRY_MS: u64 = 200;

/// How long the end of a runtime waits for the last completions. Then their memory is leaked, and
/// the report says so: the kernel may still write to it.
pub(crate) const REAP_LIMIT_MS: u64 = 5_000;

/// How long the thread sleeps at most while it waits for final completions, before it looks at the
/// time again.
pub(crate) const REAP_WAIT_MS: u64 = 100;

/// How long a drain waits for slow receivers, by default. It is the time after which supervisors
/// kill a process that was asked to end.
pub(crate) const DRAIN_DEADLINE_MS: u64 = 10_000;

/// For how long after the last delivery the progress of tasks restarts the wait of the drain. Work
/// that takes longer has to hold the exit open.
pub(crate) const PROGRESS_WAIT_MS: u64 = 2_000;

/// A drain looks whether anything is left to do once in this many turns, while tasks are always
/// ready.
pub(crate) const BUSY_TURNS_PER_LOOK: u64 = 64;

/// How long a drain waits after the last delivery for what is uncertain: a task that sleeps may be
/// on its way to a receive, or may be handling a datagram. It is enough for work that takes a
/// moment, and short beside the ten seconds after which supervisors kill a process.
pub(crate) const UNCERTAIN_WAIT_MS: u64 = 250;

/// Futures larger than this are boxed before they are passed on, because each function on the way
/// might have a copy on its stack. The value is tokio's. Unoptimized builds do have these copies,
/// and box all futures.
#[cfg(not(debug_assertions))]
pub(crate) const LARGE_FUTURE_BYTES: usize = 16_384;

/// Maximum number of threads for blocking calls of a runtime. Further calls wait. The value is
/// tokio's.
pub(crate) const MAX_BLOCKING_THREADS: usize = 512;

/// How long a thread for blocking calls waits for the next call before it ends. The value is
/// tokio's.
pub(crate) const BLOCKING_IDLE_MS: u64 = 10_000;

/// How long a blocking call waits before a thread is tried again, if the system refuses to start
/// one.
pub(crate) const BLOCKING_RETRY_MS: u64 = 20;

/// The limits of one runtime. See [`Builder`](crate::Builder) for what each one does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) submission_entries: usize,
    /// `None`: derived from the number of buffers, so that the completion queue does not overflow.
    pub(crate) completion_entries: Option<usize>,
    pub(crate) buffers: usize,
    pub(crate) buffer_size: usize,
    pub(crate) tasks_per_turn: usize,
    pub(crate) operations_per_poll: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            submission_entries: 256,
            completion_entries: None,
            buffers: 512,
            buffer_size: 65_536,
            tasks_per_turn: 256,
            operations_per_poll: 128,
        }
    }
}

impl Limits {
    /// Returns an error for values that the kernel or the runtime cannot use. It names the setter.
    pub(crate) fn validate(&self) -> io::Result<()> {
        within("submission_entries", self.submission_entries, 2, MAX_SUBMISSION_ENTRIES)?;
        if let Some(entries) = self.completion_entries {
            within("completion_entries", entries, 2, MAX_COMPLETION_ENTRIES)?;
        }
        within("buffers", self.buffers, 1, MAX_BUFFERS)?;
        within("buffer_size", self.buffer_size, 1, MAX_BUFFER_SIZE)?;
        within("tasks_per_turn", self.tasks_per_turn, 1, usize::MAX)?;
        within("operations_per_poll", self.operations_per_poll as usize, 1, u32::MAX as usize)
    }

    /// Entries of the completion queue. A completion of a receive has a buffer, so the buffers plus
    /// the one-shot operations bound how many can wait.
    pub(crate) fn completion_entries(&self) -> usize {
        self.completion_entries.unwrap_or_else(|| {
            (self.buffers + 2 * self.submission_entries)
                .next_power_of_two()
                .min(MAX_COMPLETION_ENTRIES)
        })
    }

    /// How many buffers have to be free before a busy turn arms starved receives again; before the
    /// thread sleeps, one is enough. Arming for every single buffer would cost a failed receive per
    /// buffer.
    pub(crate) fn resume_threshold(&self) -> usize {
        (self.buffers / 16).clamp(1, 32)
    }
}

fn within(name: &str, value: usize, least: usize, most: usize) -> io::Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("Builder::{name}({value}) is out of range: give {least} to {most}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Limits::default().validate().unwrap();
    }

    #[test]
    fn a_limit_out_of_range_names_its_setter() {
        let limits = Limits { buffers: 0, ..Limits::default() };
        let error = limits.validate().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("Builder::buffers(0)"), "{error}");
    }

    #[test]
    fn a_completion_queue_holds_every_buffer_and_every_one_shot_operation() {
        let limits = Limits { buffers: 1000, submission_entries: 64, ..Limits::default() };
        assert!(limits.completion_entries() >= 1064);
    }
}
