//! What is counted, and how a drain reports it.

use std::fmt;
use std::iter::Sum;
use std::ops::AddAssign;
use std::time::Duration;

/// What has happened on a socket, or on several. Counts of datagrams, where not said otherwise.
///
/// They balance: `received` is the sum of `delivered`, `discarded`, `handed_over` and what still
/// waits in the inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketStats {
    /// Taken from the kernel's queue.
    pub received: u64,
    /// Handed to a receiver.
    pub delivered: u64,
    /// Thrown away with their socket, which was dropped or stopped before they were received.
    pub discarded: u64,
    /// Sockets that were dropped while datagrams were queued in the kernel, or may have been, which
    /// nobody has seen or counted. Drain a socket before dropping it, and this stays 0.
    pub abandoned: u64,
    /// Given back with their socket by `into_std`.
    pub handed_over: u64,
    /// Longer than the buffer.
    pub truncated: u64,
    /// Dropped by the kernel before the seal, mostly for want of space in the receive buffer.
    pub dropped_by_kernel: u64,
    /// Dropped by the kernel because they came after the seal.
    pub refused: u64,
    /// Errors that were handed to a receiver.
    pub errors: u64,
    /// How often the receive was armed again.
    pub rearmed: u64,
    /// How often it stopped because the pool was empty.
    pub starved: u64,
    /// How often it stopped because the socket held its share of the pool.
    pub paused: u64,
}

impl AddAssign for SocketStats {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.delivered += other.delivered;
        self.discarded += other.discarded;
        self.abandoned += other.abandoned;
        self.handed_over += other.handed_over;
        self.truncated += other.truncated;
        self.dropped_by_kernel += other.dropped_by_kernel;
        self.refused += other.refused;
        self.errors += other.errors;
        self.rearmed += other.rearmed;
        self.starved += other.starved;
        self.paused += other.paused;
    }
}

impl Sum for SocketStats {
    fn sum<I: Iterator<Item = Self>>(stats: I) -> Self {
        stats.fold(Self::default(), |mut sum, stats| {
            sum += stats;
            sum
        })
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainOutcome {
    /// Everything was delivered.
    Complete,
    /// The deadline passed first, or sockets could not be read to the end of their queue
    /// ([`DrainReport::unread`]).
    DeadlinePassed,
    /// Everything was delivered for which there was a receiver; what is undelivered came to sockets
    /// that nobody has ever received from.
    Unclaimed,
}

/// What a drain found and did. The counts are those of the whole life of the runtime, of open and
/// of closed sockets.
///
/// `Display` prints it on one line.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DrainReport {
    /// How it ended.
    pub outcome: DrainOutcome,
    /// Sockets that were open when it began.
    pub sockets: usize,
    /// The counts of all sockets.
    pub stats: SocketStats,
    /// Datagrams that no receiver took until the deadline.
    pub undelivered: u64,
    /// UDP sockets that could not be sealed, because their filter is locked (`SO_LOCK_FILTER`) or is a
    /// BPF program (`SO_ATTACH_BPF`). Each was read once, to the end of
    /// its queue or up to 65 536 datagrams ([`unread`](Self::unread)), and its receivers were told
    /// the end there: reading on until nobody sends would be no drain that ends. What has come
    /// later is read by the next drain of the socket. If it is dropped, or the runtime ends, over a
    /// queue that is not empty, it counts as [`abandoned`](SocketStats::abandoned).
    pub unsealed: usize,
    /// Sockets that were not read to the end of their queue. What is left there is lost, unless the
    /// socket is drained again. Either the kernel did not give the receive back within 5 seconds,
    /// because it had no memory for any request; or 65 536 reads in a row failed, by a descriptor
    /// that cannot be read, or by errors that others bring about faster than they are read (ICMP);
    /// or the socket is one of `unsealed`, and as many datagrams were read.
    pub unread: usize,
    /// Calls of `spawn_blocking` and operations that had not ended at the deadline.
    pub unfinished: usize,
    /// Tasks that were dropped at the end. 0 where the runtime goes on.
    pub tasks_dropped: usize,
    /// Operations that the kernel did not give back in time; their memory was leaked, because it
    /// may still be written.
    pub operations_leaked: usize,
    /// Completions that the kernel lost for want of memory (`-EBADR`). Datagrams may be among
    /// them: this is the one loss that Ebbtide can only report.
    pub completions_lost: u64,
    /// Whether it happened while a panic unwound the thread.
    pub panicking: bool,
    /// How long it took.
    pub elapsed: Duration,
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            DrainOutcome::Complete => "drained",
            DrainOutcome::DeadlinePassed => "deadline passed while draining",
            DrainOutcome::Unclaimed => "drained (some datagrams found no receiver)",
        };
        let stats = &self.stats;
        write!(
            f,
            "{outcome} {} {} in {:.1?}: received {}, delivered {}, undelivered {}, \
             discarded {}; truncated {}, dropped by the kernel {}, refused after the seal {}",
            self.sockets,
            if self.sockets == 1 { "socket" } else { "sockets" },
            self.elapsed,
            stats.received,
            stats.delivered,
            self.undelivered,
            stats.discarded,
            stats.truncated,
            stats.dropped_by_kernel,
            stats.refused,
        )?;
        for (count, what) in [
            (stats.handed_over, "handed over"),
            (stats.abandoned, "sockets dropped with datagrams queued"),
            (self.unsealed as u64, "sockets not sealed"),
            (self.unread as u64, "SOCKETS NOT READ TO THE END"),
            (self.unfinished as u64, "operations unfinished"),
            (self.tasks_dropped as u64, "tasks dropped"),
            (self.operations_leaked as u64, "operations leaked"),
            (self.completions_lost, "COMPLETIONS LOST BY THE KERNEL"),
        ] {
            if count > 0 {
                write!(f, ", {what} {count}")?;
            }
        }
        if self.panicking {
            f.write_str(" (while panicking)")?;
        }
        Ok(())
    }
}
