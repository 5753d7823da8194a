//! [`SocketStats`], the counters, and [`DrainReport`], the report of a drain.

use std::fmt;
use std::io;
use std::iter::Sum;
use std::ops::AddAssign;
use std::time::Duration;

/// What has happened on one socket, or on several. The fields count datagrams, unless they say
/// otherwise.
///
/// They balance: `received` is the sum of `delivered`, `discarded`, `handed_over` and what is still
/// in the inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketStats {
    /// Taken from the kernel's queue.
    pub received: u64,
    /// Handed to a receiver.
    pub delivered: u64,
    /// Discarded with their socket, which was dropped or stopped before they were received.
    pub discarded: u64,
    /// Sockets, not datagrams: those that were dropped while datagrams were or may have been queued
    /// in the kernel. Nobody has counted these datagrams. If sockets are drained before they are
    /// dropped, this is 0.
    pub abandoned: u64,
    /// Returned with their socket by `into_std`.
    pub handed_over: u64,
    /// Longer than the buffer, and so cut.
    pub truncated: u64,
    /// Dropped by the kernel before the seal, mostly because the receive buffer was full.
    pub dropped_by_kernel: u64,
    /// Dropped by the kernel because they arrived after the seal.
    pub refused: u64,
    /// Errors that were returned to a receiver.
    pub errors: u64,
    /// How often the receive was armed again.
    pub rearmed: u64,
    /// How often the receive stopped because the pool was empty.
    pub starved: u64,
    /// How often the receive stopped because the socket had used its share of the pool.
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

/// How a drain ended. If several variants apply, it is the last of them, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainOutcome {
    /// Everything was delivered, and was handled as far as the runtime can know.
    Complete,
    /// Everything that had a receiver was delivered. The undelivered datagrams were sent to sockets
    /// that nobody has ever received from.
    Unclaimed,
    /// Everything on open sockets was delivered. But sockets had been dropped with datagrams that
    /// nobody received: [`SocketStats::discarded`], [`SocketStats::abandoned`].
    Discarded,
    /// Everything was delivered, but tasks were still handling datagrams:
    /// [`DrainReport::tasks_at_work`], [`DrainReport::in_hand`]. Such a task can hold the exit
    /// open: [`ExitHold`](crate::ExitHold).
    TasksAtWork,
    /// Datagrams are undelivered on sockets whose receivers have ended, or did not come back for
    /// them. Or nobody has asked for what was taken from a socket that is left to others.
    ReceiversGone,
    /// Datagrams are undelivered on a socket whose receiver is the task that awaits the drain.
    /// Drain in another task, as [`drain_on_terminate`](crate::signal::drain_on_terminate) does, or
    /// call `drain` of the socket and receive until `None`.
    WaitsForItself,
    /// The deadline passed first. Or the drain was ended at once, by
    /// [`Runtime::stop`](crate::Runtime::stop) or a second signal. Or sockets could not be read to
    /// the end of their queue ([`DrainReport::unread`]).
    DeadlinePassed,
}

/// Whether a drain has waited for datagrams that were being delivered: see
/// [`Drain::quiesce`](crate::Drain::quiesce).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quiesced {
    /// The policy did not ask for it.
    #[default]
    NotAsked,
    /// It has waited for all of them, before and after the seal.
    Waited,
    /// The kernel does not report the backlogs of the CPUs: `/proc/net/softnet_stat` is absent, or
    /// is that of Linux before 5.10. Datagrams in a backlog may have arrived after the seal.
    BacklogUnknown,
    /// The kernel has no grace periods for programs (`membarrier(2)`): it runs with `nohz_full`, or
    /// a sandbox refuses the call. Datagrams that a CPU was delivering may have arrived after the
    /// seal.
    NoGracePeriod,
    /// The deadline passed first.
    DeadlinePassed,
}

impl Quiesced {
    /// The one that has waited for less.
    pub(super) fn worse(self, other: Self) -> Self {
        if other as u8 > self as u8 { other } else { self }
    }
}

/// The report of a drain. The counts are those of the whole life of the runtime, of open and closed
/// sockets.
///
/// `Display` prints it on one line.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DrainReport {
    /// How the drain ended.
    pub outcome: DrainOutcome,
    /// Sockets that were open when the drain began.
    pub sockets: usize,
    /// How many of these sockets were sealed in a later stage: [`Exit::SealInStage`](crate::Exit).
    pub sealed_later: usize,
    /// How many of these sockets were not sealed, but left to others who have them:
    /// [`Exit::Leave`](crate::Exit::Leave).
    pub left: usize,
    /// The counts of all sockets.
    pub stats: SocketStats,
    /// Datagrams that no receiver took. If the runtime goes on, this counts those that have left
    /// the kernel's queue, and receivers can still take them.
    pub undelivered: u64,
    /// UDP sockets that could not be sealed, because their filter is locked (`SO_LOCK_FILTER`) or
    /// is a BPF program (`SO_ATTACH_BPF`).
    ///
    /// Each was read once, to the end of its queue or up to 65 536 datagrams
    /// ([`unread`](Self::unread)), and its receivers got the end there. Reading until nobody sends
    /// might never end. Later datagrams are read by the next drain of the socket. If the socket is
    /// dropped or the runtime ends while its queue is not empty, it counts as
    /// [`abandoned`](SocketStats::abandoned).
    pub unsealed: usize,
    /// Whether the drain has waited for datagrams that were being delivered.
    pub quiesced: Quiesced,
    /// Sockets that were not read to the end of their queue. The rest of the queue is lost, unless
    /// the socket is drained again. There are three causes:
    ///
    /// - The kernel had no memory for any request, and did not end the receive within 5 seconds.
    /// - 65 536 reads in a row failed, because the descriptor cannot be read, or because others
    ///   cause errors (ICMP) faster than they are read.
    /// - The socket is one of `unsealed`, and 65 536 datagrams were read.
    pub unread: usize,
    /// Calls of `spawn_blocking`, [holds](crate::ExitHold) and operations that had not ended at the
    /// deadline.
    pub unfinished: usize,
    /// Tasks that were still handling datagrams, as far as the runtime can know: they sleep, or
    /// they were spawned for it and wait. The drain has stopped waiting for them. If the runtime
    /// ends, they were dropped.
    pub tasks_at_work: usize,
    /// Other tasks that had received something, and wait for something else than a sleep. They are
    /// idle or still handle it, which the runtime cannot distinguish. This is no error. With the
    /// feature `tracing`, dropping such tasks logs a warning.
    pub tasks_unsure: usize,
    /// Messages that the program has received and still has. If the runtime ends, those of tasks
    /// that were dropped. Datagrams of one train count once. Copies of payloads do not count.
    pub in_hand: usize,
    /// Tasks that were dropped at the end. 0 if the runtime goes on.
    pub tasks_dropped: usize,
    /// Operations that the kernel did not complete in time. Their memory was leaked, because the
    /// kernel may still write to it.
    pub operations_leaked: usize,
    /// Completions that the kernel lost because it had no memory for them (`-EBADR`;
    /// docs/kernel.md, K-RING-5). A datagram may have been lost with each. Ebbtide cannot prevent
    /// this loss, only report it. It sets up receives and buffers again, so that later datagrams
    /// are received.
    pub completions_lost: u64,
    /// Whether the drain ran while a panic unwound the thread.
    pub panicking: bool,
    /// How long the drain took.
    pub elapsed: Duration,
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            DrainOutcome::Complete => "drained",
            DrainOutcome::Unclaimed => "drained (some datagrams found no receiver)",
            DrainOutcome::Discarded => "sockets were dropped over datagrams; drained",
            DrainOutcome::TasksAtWork => "tasks were still at work; drained",
            DrainOutcome::ReceiversGone => "receivers ended before their sockets; drained",
            DrainOutcome::WaitsForItself => "a receiver waits for the drain itself; drained",
            DrainOutcome::DeadlinePassed => "deadline passed while draining",
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
            (self.sealed_later as u64, "sockets sealed later"),
            (self.left as u64, "sockets left to others"),
            (self.unfinished as u64, "operations unfinished"),
            (self.tasks_at_work as u64, "tasks at work"),
            (self.tasks_unsure as u64, "tasks idle or at work"),
            (self.in_hand as u64, "messages in hand"),
            (self.tasks_dropped as u64, "tasks dropped"),
            (self.operations_leaked as u64, "operations leaked"),
            (self.completions_lost, "COMPLETIONS LOST BY THE KERNEL"),
        ] {
            if count > 0 {
                write!(f, ", {what} {count}")?;
            }
        }
        match self.quiesced {
            Quiesced::NotAsked | Quiesced::Waited => {}
            Quiesced::BacklogUnknown => {
                f.write_str(", did not wait for backlogs: they are unknown")?;
            }
            Quiesced::NoGracePeriod => {
                f.write_str(", did not wait for deliveries: no membarrier")?;
            }
            Quiesced::DeadlinePassed => f.write_str(", stopped waiting for deliveries")?,
        }
        if self.panicking {
            f.write_str(" (while panicking)")?;
        }
        Ok(())
    }
}

impl DrainReport {
    /// Completes the report when the runtime has ended, with the final counts of its sockets.
    /// Datagrams may have arrived after the seal until now, and tasks were dropped with what they
    /// had.
    pub(crate) fn close(&mut self, stats: &SocketStats) {
        self.stats.abandoned = stats.abandoned;
        self.stats.refused = stats.refused;
        self.stats.dropped_by_kernel = stats.dropped_by_kernel;
        let was_delivered = matches!(
            self.outcome,
            DrainOutcome::Complete | DrainOutcome::Unclaimed | DrainOutcome::Discarded
        );
        if was_delivered && self.in_hand > 0 {
            self.outcome = DrainOutcome::TasksAtWork;
        } else if was_delivered && self.stats.abandoned > 0 {
            self.outcome = DrainOutcome::Discarded;
        }
    }

    /// Returns the report, or an error if datagrams were lost that a receiver had asked for.
    ///
    /// [`Unclaimed`](DrainOutcome::Unclaimed) datagrams are no error: a socket that only sends may
    /// get replies that nobody reads. With the feature `tracing`, they log a warning.
    ///
    /// # Errors
    ///
    /// [`DrainError`] for every outcome except [`Complete`](DrainOutcome::Complete) and
    /// [`Unclaimed`](DrainOutcome::Unclaimed).
    ///
    /// ```
    /// use ebbtide::{Drain, Runtime};
    ///
    /// let runtime = Runtime::new()?;
    /// let report = runtime.shutdown(Drain::default()).into_result()?;
    /// assert_eq!(report.undelivered, 0);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn into_result(self) -> Result<Self, DrainError> {
        match self.outcome {
            DrainOutcome::Complete => {
                #[cfg(feature = "tracing")]
                if self.tasks_unsure > 0 && self.tasks_dropped > 0 {
                    tracing::warn!(report = %self, "tasks were dropped that may have been at work");
                }
                Ok(self)
            }
            DrainOutcome::Unclaimed => {
                #[cfg(feature = "tracing")]
                tracing::warn!(report = %self, "datagrams found no receiver");
                Ok(self)
            }
            _ => Err(DrainError { report: Box::new(self) }),
        }
    }
}

/// The error of a drain that has lost datagrams, or may have: see [`DrainOutcome`].
///
/// It converts into [`io::Error`], whose kind is `TimedOut` if the deadline passed, and `Other`
/// otherwise. `error.get_ref()` and `downcast_ref::<DrainError>()` return this error.
#[derive(Clone)]
pub struct DrainError {
    report: Box<DrainReport>,
}

impl DrainError {
    /// The report of the drain.
    #[must_use]
    pub fn report(&self) -> &DrainReport {
        &self.report
    }
}

impl fmt::Display for DrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.report.outcome {
            DrainOutcome::Discarded => "; drain a socket and receive until None before dropping it",
            DrainOutcome::TasksAtWork => "; let such tasks hold the exit open: hold_exit()",
            DrainOutcome::WaitsForItself => "; drain in a task of its own: drain_on_terminate()",
            _ => "",
        };
        write!(f, "{}{advice}", self.report)
    }
}

/// Prints the report: this is what a program prints if its `main` returns the error.
impl fmt::Debug for DrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DrainError({self})")
    }
}

impl std::error::Error for DrainError {}

impl From<DrainError> for io::Error {
    fn from(error: DrainError) -> Self {
        let kind = match error.report.outcome {
            DrainOutcome::DeadlinePassed => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
