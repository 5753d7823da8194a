//! Every limit of the runtime, by name, with its reason.
//!
//! What a user may change is a field of `Limits` with a setter on [`Builder`](crate::Builder);
//! what is fixed is a constant here. Nothing else in the workspace holds a bare number that
//! bounds a queue, a table or a loop.

use std::io;

/// Most buffers that a pool can hold: buffer ids are 15 bits wide in the kernel
/// (`io_uring_register_buf_ring(3)`).
pub(crate) const MAX_BUFFERS: usize = 1 << 15;

/// Most entries that the kernel grants a submission queue (`IORING_MAX_ENTRIES`).
pub(crate) const MAX_SUBMISSION_ENTRIES: usize = 1 << 15;

/// Most entries that the kernel grants a completion queue (`IORING_MAX_CQ_ENTRIES`).
pub(crate) const MAX_COMPLETION_ENTRIES: usize = 1 << 16;

/// Bytes of every buffer that are kept for what the kernel writes in front of the payload: its
/// header (16), the longest address (a Unix one, 110) and control messages. The odd size of the
/// sum is wanted as well: buffers of 64 KiB to the byte would all compete for one cache set.
pub(crate) const BUFFER_OVERHEAD: usize = 256;

/// Largest payload of a buffer: a Unix datagram can be as large as the send buffer allows, and
/// 1 MiB is five times the default of that.
pub(crate) const MAX_BUFFER_SIZE: usize = 1 << 20;

/// Errors in a row after which the drain gives a socket up, and says so in its report. A pending
/// socket error comes before the datagrams and is cleared by being told, and whoever forges ICMP
/// answers to a connected socket can bring the next one about. If nine in ten reads meet one, 64 in
/// a row do once in a thousand times, and so many never do. A descriptor that cannot be read at all
/// has failed as often in some ten milliseconds, so no list of errnos has to tell the two apart.
pub const MAX_DRAIN_ERRORS: u32 = 65_536;

/// Datagrams that are read from a sealed socket at once: by the drain before it turns to the next
/// socket, and for receivers that have taken all that was read before.
pub const DRAIN_READ_BATCH: usize = 64;

/// How often a turn enters the kernel again for what the last enter left behind, if tasks of the
/// same thread have sent that much. More than the budget of a poll, so that a sender of empty
/// datagrams, each of which costs its receiver a round, does not outrun a receiver beside it.
pub(crate) const ROUNDS_PER_TURN: u64 = 256;

/// Datagrams that one visit to the kernel brings of each socket that has as many: 33 of a ring with
/// `DEFER_TASKRUN`, 32 of epoll.
pub(crate) const DATAGRAMS_PER_ROUND: u64 = 32;

/// Bytes of a send that count as one more operation of the budget of a poll. With the default
/// budget a task then sends no more than a receive buffer of the default size holds before
/// receivers on the same thread run: 128 small datagrams, 22 of 1472 bytes, 4 of 9000, one of 64
/// KiB. Several senders together can send more than that. (The kernel charges up to four times the
/// length of a datagram to the buffer.)
pub const SEND_BUDGET_BYTES: usize = 256;

/// Turns after which starved receives are re-armed for any free buffer, though the loop is busy.
pub(crate) const MOST_TURNS_STARVED: u32 = 16;

/// How long a send that finds no buffer space waits before it is tried again, where no descriptor
/// or no memory is left to ask the kernel with when there is some.
pub const SEND_RETRY_MS: u64 = 2;

/// How long the thread sleeps when the kernel has no memory for what it was asked.
pub(crate) const REFUSED_PAUSE_MS: u64 = 1;

/// How long a start that the kernel refuses for want of locked memory is tried again before the
/// ring is halved: memory of rings that were just closed is given back asynchronously.
pub(crate) const START_RETRY_MS: u64 = 1_000;

/// How long each smaller ring is then tried: so long that the memory of the one before, which had
/// got as far as being registered, has come back (36 ms were seen).
pub(crate) const SMALLER_RETRY_MS: u64 = 200;

/// How long the end of a runtime waits for the last completions before it gives their memory up
/// (leaks it) and says so in the report: rather a leak than memory that the kernel still writes.
pub(crate) const REAP_LIMIT_MS: u64 = 5_000;

/// How long the progress of tasks begins that wait anew, counted from the last delivery: work that goes on
/// longer, or for ever, holds the exit open.
pub(crate) const PROGRESS_WAIT_MS: u64 = 2_000;

/// A drain looks every so many turns whether anything is left to do, while tasks are always ready.
pub(crate) const BUSY_TURNS_PER_LOOK: u64 = 64;

/// How long a drain waits, after the last datagram was delivered, for what may or may not happen: a
/// task that sleeps and may be on its way to a receive, or at work on what it was handed. Long
/// enough for work that takes a moment, short beside the ten seconds after which supervisors kill.
pub(crate) const UNCERTAIN_WAIT_MS: u64 = 250;

/// Futures that are longer than this are put on the heap before anything else is done with them: each
/// function that one passes through may have it on the stack otherwise. tokio's number. Where nothing is
/// optimized each does, and all futures are.
#[cfg(not(debug_assertions))]
pub(crate) const LARGE_FUTURE_BYTES: usize = 16_384;

/// Threads that a runtime runs blocking calls on at most: tokio's number. Further calls wait.
pub(crate) const MAX_BLOCKING_THREADS: usize = 512;

/// How long a thread for blocking calls waits for the next one before it ends: tokio's time.
pub(crate) const BLOCKING_IDLE_MS: u64 = 10_000;

/// How long a blocking call waits, where the system starts no thread, before it is tried again.
pub(crate) const BLOCKING_RETRY_MS: u64 = 20;

/// The limits of one runtime. See [`Builder`](crate::Builder) for what each one does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) submission_entries: usize,
    /// `None`: derived from the buffers, so that the completion queue cannot overflow.
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
    /// Refuses what the kernel or the runtime cannot carry out, naming the setter to change.
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

    /// Entries of the completion queue: a completion of a receive always holds a buffer, so
    /// buffers plus one-shot operations bound what can be waiting in it.
    pub(crate) fn completion_entries(&self) -> usize {
        self.completion_entries.unwrap_or_else(|| {
            (self.buffers + 2 * self.submission_entries)
                .next_power_of_two()
                .min(MAX_COMPLETION_ENTRIES)
        })
    }

    /// Free buffers that a busy turn waits for before it re-arms starved sockets; before sleeping,
    /// one is enough. Re-arming for every single buffer would cost a failed receive per buffer.
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
