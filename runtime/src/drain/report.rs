//! What is counted, and how a drain reports it.

use std::fmt;
use std::io;
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

/// How a drain ended. If several of these hold, it is the last of them, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainOutcome {
    /// Everything was delivered, and handled as far as can be known.
    Complete,
    /// Everything was delivered for which there was a receiver; what is undelivered came to sockets
    /// that nobody has ever received from.
    Unclaimed,
    /// Everything that was queued on open sockets was delivered. But sockets had been dropped over
    /// datagrams that nobody received: [`SocketStats::discarded`], [`SocketStats::abandoned`].
    Discarded,
    /// Everything was delivered, but tasks were still at work on what they had been handed:
    /// [`DrainReport::tasks_at_work`], [`DrainReport::in_hand`]. To be waited for, such a task holds
    /// the exit open: [`ExitHold`](crate::ExitHold).
    TasksAtWork,
    /// Datagrams are undelivered on sockets whose receivers have ended, or have not come back for them; or
    /// nobody has asked for what was taken from a socket that is left to others.
    ReceiversGone,
    /// Datagrams are undelivered on a socket whose receiver is the task that waits for the drain: it
    /// waits for itself. Let another task drain, as
    /// [`drain_on_terminate`](crate::signal::drain_on_terminate) does, or call the socket's own
    /// `drain` and receive until `None`.
    WaitsForItself,
    /// The deadline passed first, or the drain was ended at once, by
    /// [`Runtime::stop`](crate::Runtime::stop) or a second signal; or sockets could not be read to the
    /// end of their queue ([`DrainReport::unread`]).
    DeadlinePassed,
}

/// Whether a drain has waited for datagrams on their way: see [`Drain::quiesce`](crate::Drain::quiesce).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quiesced {
    /// It was not asked to.
    #[default]
    NotAsked,
    /// For all, before and after the seal.
    Waited,
    /// The kernel does not tell what lies in the backlogs of the CPUs: there is no
    /// `/proc/net/softnet_stat`, or that of Linux before 5.10. What lay there may have come after the
    /// seal.
    BacklogUnknown,
    /// The kernel has no grace periods for programs (`membarrier(2)`): it runs with `nohz_full`, or a
    /// sandbox refuses the call. What a CPU had in hand may have come after the seal.
    NoGracePeriod,
    /// The deadline passed first.
    DeadlinePassed,
}

impl Quiesced {
    /// That of both of which less was had.
    pub(super) fn worse(self, other: Self) -> Self {
        if other as u8 > self as u8 { other } else { self }
    }
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
    /// Of those, how many were sealed in a later stage: [`Exit::SealInStage`](crate::Exit).
    pub sealed_later: usize,
    /// Of those, how many were not sealed but left to others who hold them:
    /// [`Exit::Leave`](crate::Exit::Leave).
    pub left: usize,
    /// The counts of all sockets.
    pub stats: SocketStats,
    /// Datagrams that no receiver took. Where the runtime goes on, receivers can still take them, and
    /// those count that have left the kernel's queue.
    pub undelivered: u64,
    /// UDP sockets that could not be sealed, because their filter is locked (`SO_LOCK_FILTER`) or is a
    /// BPF program (`SO_ATTACH_BPF`). Each was read once, to the end of
    /// its queue or up to 65 536 datagrams ([`unread`](Self::unread)), and its receivers were told
    /// the end there: reading on until nobody sends would be no drain that ends. What has come
    /// later is read by the next drain of the socket. If it is dropped, or the runtime ends, over a
    /// queue that is not empty, it counts as [`abandoned`](SocketStats::abandoned).
    pub unsealed: usize,
    /// Whether datagrams on their way were waited for.
    pub quiesced: Quiesced,
    /// Sockets that were not read to the end of their queue. What is left there is lost, unless the
    /// socket is drained again. Either the kernel did not give the receive back within 5 seconds,
    /// because it had no memory for any request; or 65 536 reads in a row failed, by a descriptor
    /// that cannot be read, or by errors that others bring about faster than they are read (ICMP);
    /// or the socket is one of `unsealed`, and as many datagrams were read.
    pub unread: usize,
    /// Calls of `spawn_blocking`, [holds](crate::ExitHold) and operations that had not ended at the
    /// deadline.
    pub unfinished: usize,
    /// Tasks in the middle of what they got from receivers, as far as can be known: they sleep, or they
    /// were spawned for it and wait. They were not waited for any longer. Where the runtime ends, they were
    /// cut off.
    pub tasks_at_work: usize,
    /// Other tasks that had something from receivers in hand, and wait for something else than a sleep:
    /// they are idle, or in the middle of it, which cannot be told apart. No error by itself. With the
    /// feature `tracing` it is a warning where such tasks are cut off.
    pub tasks_unsure: usize,
    /// Messages that the program was handed and still holds; where the runtime ends, those that tasks
    /// held which were dropped. Datagrams of one train count once, copies of payloads do not.
    pub in_hand: usize,
    /// Tasks that were dropped at the end. 0 where the runtime goes on.
    pub tasks_dropped: usize,
    /// Operations that the kernel did not give back in time; their memory was leaked, because it
    /// may still be written.
    pub operations_leaked: usize,
    /// Completions that the kernel lost because it had no memory to keep them (`-EBADR`). Each may have
    /// brought a datagram: this is the one loss that Ebbtide can only report. What comes afterwards is
    /// received: receives and buffers are set up again.
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
    /// The runtime has ended, with these counts of its sockets. What came after the seal may have come
    /// until now, and what tasks held was dropped with them.
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

    /// The report, if nothing was lost that anybody had asked for.
    ///
    /// [`Unclaimed`](DrainOutcome::Unclaimed) datagrams are no error: a socket that only sends may
    /// get an answer that nobody wants. With the feature `tracing` they are a warning.
    ///
    /// # Errors
    ///
    /// [`DrainError`] for every other outcome than [`Complete`](DrainOutcome::Complete).
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

/// The error of a drain that lost something, or may have: see [`DrainOutcome`].
///
/// As an [`io::Error`] its kind is `TimedOut` where the deadline passed, and `Other` for the rest;
/// `error.get_ref()` and `downcast_ref::<DrainError>()` lead back to it.
#[derive(Clone)]
pub struct DrainError {
    report: Box<DrainReport>,
}

impl DrainError {
    /// What the drain found and did.
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

/// What a program prints whose `main` returns it.
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
