//! Recovery from a lost completion.
//!
//! The kernel loses a completion if the completion queue is full and there is no memory to keep it
//! (docs/kernel.md, K-RING-5). The datagram that came with it is lost, and counted. The rest of
//! what it said has to be found out: a receive that has ended would leave its socket deaf, an
//! operation may be done, and a buffer may be used.
//!
//! ```text
//! 1 submit   what is queued: a cancel finds only what the kernel has
//! 2 cancel   all that is in flight, at once, and collect the completions
//! 3 end      what was not found and has no completion: its final completion was lost
//! 4 register the ring of buffers again, with the buffers that have no shares
//! 5 go on    arm the receives that their sinks want armed, and submit the operations again
//! ```
//!
//! This loses no datagram: a cancel takes none, and what is queued in sockets stays there.

// UNSAFETY: the ring of buffers is registered again.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::time::Duration;

use super::Driver;
use super::backend::Backend;
use super::enter::{EnterOutcome, Wait};
use super::ring::Found;
use super::table::{Finality, Id};
use crate::clock;
use crate::limits::{REAP_LIMIT_MS, REFUSED_PAUSE_MS};
use crate::wakes::Wakes;

/// The state of a recovery that the kernel has not let complete yet.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Operations that the kernel no longer has, and whose futures wait.
    again: Vec<Id>,
}

/// Whether a step was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Done,
    /// The kernel has no memory for it: try again later.
    NotNow,
}

impl Driver {
    /// Finds out what was lost, and goes on without it. If the kernel does not let it complete, the
    /// next `collect` tries again.
    #[cold]
    pub(super) fn recover(&mut self, wakes: &mut Wakes) {
        let mut recovery = self.recovery.take().unwrap_or_default();
        let ended = self.end_all(&mut recovery, wakes).and_then(|ended| {
            if let (Step::Done, Backend::Ring(ring)) = (ended, &mut self.backend) {
                // SAFETY: the pool outlives the backend.
                unsafe { ring.replace_buffers(&self.pool) }?;
            }
            Ok(ended)
        });
        self.completions_lost = self.backend.lost();
        match ended.map_err(|error| error.raw_os_error()) {
            Ok(Step::Done) => self.go_on(recovery, wakes),
            Ok(Step::NotNow) => self.recovery = Some(recovery),
            Err(Some(libc::ENOMEM | libc::EAGAIN)) => {
                clock::pause(Duration::from_millis(REFUSED_PAUSE_MS));
                self.recovery = Some(recovery);
            }
            // It cannot be recovered. What was lost stays lost, and was counted.
            Err(_) => self.go_on(recovery, wakes),
        }
    }

    /// Steps 1 to 3.
    fn end_all(&mut self, recovery: &mut Recovery, wakes: &mut Wakes) -> io::Result<Step> {
        if self.submit_and_take_in(recovery, wakes)? == Step::NotNow {
            return Ok(Step::NotNow);
        }
        let missing = self.cancel_all(recovery)?;
        if self.submit_and_take_in(recovery, wakes)? == Step::NotNow {
            return Ok(Step::NotNow);
        }
        for id in missing {
            self.end_lost(id, recovery, wakes);
        }
        let is_left = |id: &Id| !recovery.again.contains(id);
        if self.table.ids_in_flight().iter().any(is_left) {
            // Their completions were lost just now.
            return Ok(Step::NotNow);
        }
        Ok(Step::Done)
    }

    /// Step 5.
    fn go_on(&mut self, recovery: Recovery, wakes: &mut Wakes) {
        if let Backend::Ring(ring) = &mut self.backend {
            ring.resume_watch();
        }
        self.carry_out_verdicts(wakes);
        for id in recovery.again {
            if self.table.is_waiting(id) {
                self.backend.submit(id, self.table.operation(id).as_mut());
            } else {
                // Its future was dropped meanwhile.
                self.parts(wakes).1.accept(id, -libc::ECANCELED, Finality::Final);
            }
        }
    }

    /// Submits what is queued, and collects what the kernel has, until nothing is left of either.
    fn submit_and_take_in(
        &mut self,
        recovery: &mut Recovery,
        wakes: &mut Wakes,
    ) -> io::Result<Step> {
        let deadline = clock::now() + Duration::from_millis(REAP_LIMIT_MS);
        loop {
            self.pool.refill();
            let entered = self.backend.enter(Wait::No)?;
            self.take_in(recovery, wakes);
            if entered == EnterOutcome::Refused {
                clock::pause(Duration::from_millis(REFUSED_PAUSE_MS));
            } else if !self.backend.has_work() && !self.backend.has_completions() {
                return Ok(Step::Done);
            }
            if clock::now() >= deadline {
                return Ok(Step::NotNow);
            }
        }
    }

    /// Collects completions, like `collect`, but arms nothing. An operation that this recovery has
    /// cancelled does not complete for its future.
    fn take_in(&mut self, recovery: &mut Recovery, wakes: &mut Wakes) {
        let (Backend::Ring(ring), mut dispatch) = self.parts(wakes) else { return };
        ring.collect(|id, result, buffer, finality| {
            if result == -libc::ECANCELED && dispatch.table.is_waiting(id) {
                recovery.again.push(id);
            } else {
                dispatch.complete(id, result, buffer, finality);
            }
        });
        dispatch.end_burst();
    }

    /// Cancels all that is in flight. Returns what the kernel does not have.
    fn cancel_all(&mut self, recovery: &Recovery) -> io::Result<Vec<Id>> {
        let Backend::Ring(ring) = &mut self.backend else { return Ok(Vec::new()) };
        ring.suspend_watch()?;
        let mut missing = Vec::new();
        for id in self.table.ids_in_flight() {
            if !recovery.again.contains(&id) && ring.cancel_now(id)? == Found::Nothing {
                missing.push(id);
            }
        }
        Ok(missing)
    }

    /// Ends `id`, of which the kernel has nothing, and no completion is left.
    fn end_lost(&mut self, id: Id, recovery: &mut Recovery, wakes: &mut Wakes) {
        if !self.table.is_in_flight(id) || recovery.again.contains(&id) {
            return;
        }
        if self.table.is_waiting(id) {
            recovery.again.push(id);
        } else {
            self.parts(wakes).1.accept(id, -libc::ECANCELED, Finality::Final);
        }
    }
}
