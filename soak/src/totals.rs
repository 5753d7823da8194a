//! [`Totals`]: the sums over all lives, and the failures.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The number of failures that are kept. The first ones are the most useful.
const MOST_FAILURES: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Totals {
    /// The sums of all lives that have ended.
    ended: Mutex<Sums>,
    /// Datagrams sent and delivered so far in all lives, for the progress line.
    pub(super) sent: AtomicU64,
    pub(super) delivered: AtomicU64,
    /// The number of datagrams left that came to a drained socket.
    pub(super) late: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// The counts of one life, or of several.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) lives: u64,
    pub(super) udp_sockets: u64,
    pub(super) unix_sockets: u64,
    pub(super) sent: u64,
    pub(super) delivered: u64,
    pub(super) undelivered: u64,
    pub(super) discarded: u64,
    pub(super) handed_over: u64,
    /// Left in the kernel by sockets that were dropped or handed over.
    pub(super) left: u64,
    /// Dropped by the kernel, because there was no buffer space, or after the seal.
    pub(super) dropped: u64,
    pub(super) rearmed: u64,
    pub(super) starved: u64,
    pub(super) paused: u64,
    pub(super) truncated: u64,
}

impl Sums {
    /// How many datagrams are in no other count. Above 0, datagrams were lost. Below 0, some came
    /// twice.
    pub(super) fn missing(&self) -> i64 {
        let found = self.delivered + self.undelivered + self.discarded + self.handed_over;
        self.sent as i64 - (found + self.left + self.dropped) as i64
    }
}

impl Totals {
    pub(super) fn add(&self, life: &Sums) {
        let mut ended = self.ended.lock();
        *ended = Sums {
            lives: ended.lives + life.lives,
            udp_sockets: ended.udp_sockets + life.udp_sockets,
            unix_sockets: ended.unix_sockets + life.unix_sockets,
            sent: ended.sent + life.sent,
            delivered: ended.delivered + life.delivered,
            undelivered: ended.undelivered + life.undelivered,
            discarded: ended.discarded + life.discarded,
            handed_over: ended.handed_over + life.handed_over,
            left: ended.left + life.left,
            dropped: ended.dropped + life.dropped,
            rearmed: ended.rearmed + life.rearmed,
            starved: ended.starved + life.starved,
            paused: ended.paused + life.paused,
            truncated: ended.truncated + life.truncated,
        };
    }

    fn ended(&self) -> Sums {
        *self.ended.lock()
    }

    pub(super) fn lives(&self) -> u64 {
        self.ended().lives
    }

    pub(super) fn fail(&self, failure: String) {
        let mut failures = self.failures.lock();
        if failures.len() < MOST_FAILURES {
            println!("FAILED: {failure}");
            failures.push(failure);
        }
    }

    pub(super) fn failures(&self) -> Vec<String> {
        self.failures.lock().clone()
    }

    /// Whether a thread may never end.
    pub(super) fn is_stuck(&self) -> bool {
        self.failures().iter().any(|failure| failure.starts_with("stuck"))
    }

    /// Fails unless what is missing was dropped before it reached a socket.
    pub(super) fn check_missing(&self, backlog_drops: u64) {
        let missing = self.ended().missing();
        if missing < 0 || missing > backlog_drops as i64 {
            self.fail(format!(
                "{missing} datagrams are missing, but the backlog dropped {backlog_drops}"
            ));
        }
    }

    pub(super) fn summary(&self, backlog_drops: u64) -> String {
        let sums = self.ended();
        format!(
            "{} runtimes, {} UDP sockets, {} Unix sockets\n\
             sent         {:12}\n\
             delivered    {:12}\n\
             undelivered  {:12}  (stopped, or past the deadline)\n\
             discarded    {:12}  (with a dropped socket)\n\
             handed over  {:12}  (with a socket that was given back)\n\
             left         {:12}  (in the kernel, of sockets that were dropped or given back)\n\
             dropped      {:12}  (by the kernel: no room, or after the seal)\n\
             late         {:12}  (of those left: queued after the last read of a UDP socket)\n\
             missing      {:12}  (the backlogs of the CPUs dropped {backlog_drops})\n\
             truncated {}, re-armed {}, starved {}, paused {}",
            sums.lives,
            sums.udp_sockets,
            sums.unix_sockets,
            sums.sent,
            sums.delivered,
            sums.undelivered,
            sums.discarded,
            sums.handed_over,
            sums.left,
            sums.dropped,
            self.late.load(Ordering::Relaxed),
            sums.missing(),
            sums.truncated,
            sums.rearmed,
            sums.starved,
            sums.paused,
        )
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sums = self.ended();
        write!(
            f,
            "{:5} runtimes, {:6} sockets, {:10} sent, {:10} delivered, {} missing ",
            sums.lives,
            sums.udp_sockets + sums.unix_sockets,
            self.sent.load(Ordering::Relaxed),
            self.delivered.load(Ordering::Relaxed),
            sums.missing(),
        )
    }
}
