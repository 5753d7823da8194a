//! The driver: what is in flight, and the backend that carries it out.
//!
//! ```text
//! submit, arm, cancel -> Backend: a ring, or epoll
//! submit_and_wait     -> Backend::enter      (one system call a turn)
//! collect             <- Backend::collect -> Table::complete -> wake a future | feed a sink
//! ```
//!
//! It keeps the invariant **owned until final** (see `table.rs`): operations, and the sinks of
//! receives with their sockets, belong to the driver until their final completion.
//!
//! The driver knows no sockets and runs no user code. It puts what has to be woken or dropped into
//! [`Wakes`]. The runtime wakes and drops it when the driver is no longer borrowed.

mod backend;
pub(crate) mod descriptor;
mod dispatch;
mod enter;
mod epoll;
mod error;
mod operation;
mod receive;
mod recovery;
mod ring;
mod start;
mod table;
#[cfg(test)]
#[cfg(not(miri))]
mod tests;

use std::fs::File;
use std::io;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use self::backend::Backend;
pub use self::descriptor::{Interest, poll_now, watch_writable};
use self::dispatch::{Burst, Dispatch};
pub(crate) use self::enter::{EnterOutcome, Wait};
pub use self::error::{StartCause, StartError};
use self::operation::{ActiveOperations, AnyOperation};
pub use self::operation::{Activity, Operation, Readiness, Request};
pub use self::receive::{
    Armed, Batch, Filled, HEADER_LEN, Header, Layout, READ_BATCH, ReceiveKey, Scratch, Sink,
    Source, Verdict,
};
use self::receive::{Cancel, Receive, Receives};
use self::recovery::Recovery;
pub use self::ring::TaskRun;
use self::start::Started;
pub use self::start::{DriverChoice, RunningDriver};
use self::table::{Finality, Orphan, Table};
pub(crate) use self::table::{Id, Polled};
use crate::buffer::Pool;
use crate::clock;
use crate::limits::{Limits, MOST_TURNS_STARVED, REAP_LIMIT_MS, REAP_WAIT_MS, REFUSED_PAUSE_MS};
use crate::wakes::Wakes;

pub(crate) struct Driver {
    backend: Backend,
    table: Table<Box<dyn AnyOperation>, Rc<Receive>>,
    receives: Receives,
    pool: Pool,
    /// How many buffers have to be free before a busy turn arms starved receives.
    resume_threshold: usize,
    /// Turns since starved receives were last armed.
    turns_starved: u32,
    /// Empty between two `collect`s; kept for its allocation.
    burst: Burst,
    /// The verdicts of one `collect`, carried out after it; kept for its allocation.
    verdicts: Vec<(Rc<Receive>, Verdict)>,
    active: ActiveOperations,
    running: RunningDriver,
    completions: u64,
    completions_lost: u64,
    /// The recovery from lost completions. `None` if none is needed.
    recovery: Option<Recovery>,
    /// The error of the last enter. `None` if it succeeded.
    failure: Option<io::Error>,
}

/// Whether a cancel found something in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The receive. Its final completion follows.
    InFlight,
    /// Nothing: the receive has ended, or was never armed.
    NothingInFlight,
}

/// Whether `reap_all` has collected every final completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaped {
    All,
    /// The kernel did not complete this many operations. Their memory was leaked.
    Leaked(usize),
}

impl Driver {
    /// Starts the driver for `choice`. Other threads write to `eventfd` to wake it.
    pub(crate) fn new(
        choice: DriverChoice,
        limits: &Limits,
        eventfd: Arc<File>,
    ) -> io::Result<Self> {
        Ok(Self::from_started(start::start(choice, limits, eventfd)?, limits))
    }

    /// Starts the driver on a kernel in memory.
    #[cfg(ebbtide_model)]
    pub(crate) fn on_model(
        queues: Box<dyn crate::model::ModelQueues>,
        limits: &Limits,
        eventfd: Arc<File>,
    ) -> io::Result<Self> {
        Ok(Self::from_started(start::start_model(queues, limits, eventfd)?, limits))
    }

    fn from_started(started: Started, limits: &Limits) -> Self {
        let Started { backend, pool, running } = started;
        Self {
            backend,
            table: Table::new(),
            receives: Receives::default(),
            pool,
            resume_threshold: limits.resume_threshold(),
            turns_starved: 0,
            burst: Burst::default(),
            verdicts: Vec::new(),
            active: ActiveOperations::default(),
            running,
            completions: 0,
            completions_lost: 0,
            recovery: None,
            failure: None,
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Which driver it is, and how it was set up.
    pub(crate) fn running(&self) -> &RunningDriver {
        &self.running
    }

    /// How many operations the exit waits for.
    pub(crate) fn active(&self) -> ActiveOperations {
        self.active
    }

    pub(crate) fn counts(&self) -> DriverCounts {
        DriverCounts {
            enters: self.backend.enters(),
            completions: self.completions,
            completions_lost: self.completions_lost,
            in_flight: self.table.in_flight(),
        }
    }

    /// Takes ownership of `operation` and begins it.
    pub(crate) fn submit(&mut self, operation: Box<dyn AnyOperation>) -> Id {
        let activity = operation.activity();
        self.active.submitted(activity);
        let id = self.table.insert(operation);
        if let Backend::Ended = self.backend {
            self.table.complete(id, -libc::ESHUTDOWN, Finality::Final);
            self.active.completed(activity);
            return id;
        }
        self.backend.submit(id, self.table.operation(id).as_mut());
        id
    }

    /// Returns the result of an operation, or stores `waker`. Drop the result after the borrow.
    pub(crate) fn poll(&mut self, id: Id, waker: Waker) -> Polled<Box<dyn AnyOperation>> {
        let polled = self.table.poll(id, waker);
        if let Polled::Ready { operation, .. } = &polled {
            self.active.claimed(operation.as_ref().activity());
        }
        polled
    }

    /// The future of `id` was dropped.
    pub(crate) fn orphan(&mut self, id: Id, wakes: &mut Wakes) {
        match self.table.orphan(id) {
            Orphan::Cancel { waker } => {
                self.backend.cancel(id);
                wakes.retire(Box::new(waker));
            }
            Orphan::Retire(operation) => {
                self.active.claimed(operation.as_ref().activity());
                wakes.retire(operation);
            }
        }
    }

    /// Adds a sink. Its receive is not armed yet.
    pub(crate) fn register(&mut self, sink: Rc<dyn Sink>) -> ReceiveKey {
        self.receives.insert(sink)
    }

    /// Arms the receive of `key`, unless it is armed. If no buffer is free, or other receives wait
    /// for one, it joins the end of those that wait: otherwise a flooded socket would take every
    /// buffer that returns.
    pub(crate) fn arm(&mut self, key: ReceiveKey) {
        if self.pool.free() == 0 || self.receives.has_starved() {
            // Without a buffer the receive would end at once, even with no datagram queued
            // (docs/kernel.md, K-BUF-1).
            self.receives.starve(key);
        } else {
            self.arm_now(key);
        }
    }

    fn arm_now(&mut self, key: ReceiveKey) {
        if let Backend::Ended = self.backend {
            return;
        }
        let Some(receive) = self.receives.get(key) else { return };
        if receive.is_idle() {
            let id = self.table.insert_multishot(Rc::clone(receive));
            receive.armed(id);
            self.backend.receive(id, receive);
        }
    }

    /// Cancels the receive of `key`. Completions may follow, up to the final one.
    pub(crate) fn cancel(&mut self, key: ReceiveKey) -> Cancelled {
        match self.receives.get(key).map_or(Cancel::NotInFlight, |receive| receive.cancel()) {
            Cancel::Ask(id) => self.backend.cancel(id),
            Cancel::Asked => {}
            Cancel::NotInFlight => return Cancelled::NothingInFlight,
        }
        Cancelled::InFlight
    }

    /// Whether nothing of `key` is in flight.
    pub(crate) fn is_reaped(&self, key: ReceiveKey) -> bool {
        self.receives.get(key).is_none_or(|receive| receive.is_idle())
    }

    /// Removes the sink of `key`. If its receive is in flight, it is cancelled, and the sink is
    /// dropped at the final completion. Drop the result after the borrow.
    pub(crate) fn deregister(&mut self, key: ReceiveKey) -> Option<Rc<impl Sized + use<>>> {
        let cancelled = self.cancel(key);
        let receive = self.receives.remove(key)?;
        match cancelled {
            Cancelled::InFlight => None,
            Cancelled::NothingInFlight => {
                self.backend.forget(&receive);
                Some(receive)
            }
        }
    }

    /// Collects all completions: wakes futures, feeds sinks, and carries out the verdicts of the
    /// sinks. Returns how many completions there were.
    pub(crate) fn collect(&mut self, wakes: &mut Wakes) -> u64 {
        let before = self.completions;
        if self.recovery.is_some() {
            self.recover(wakes);
        }
        let (backend, mut dispatch) = self.parts(wakes);
        backend.collect(&mut dispatch);
        self.carry_out_verdicts(wakes);
        self.completions - before
    }

    /// Borrows the backend, and where its completions go, separately.
    fn parts<'a>(&'a mut self, wakes: &'a mut Wakes) -> (&'a mut Backend, Dispatch<'a>) {
        let dispatch = Dispatch {
            table: &mut self.table,
            pool: &self.pool,
            active: &mut self.active,
            completions: &mut self.completions,
            burst: &mut self.burst,
            verdicts: &mut self.verdicts,
            wakes,
        };
        (&mut self.backend, dispatch)
    }

    fn carry_out_verdicts(&mut self, wakes: &mut Wakes) {
        if self.verdicts.is_empty() {
            return;
        }
        let mut verdicts = mem::take(&mut self.verdicts);
        for (receive, verdict) in verdicts.drain(..) {
            let key = receive.key();
            if receive.has_left() {
                if receive.is_idle() {
                    self.backend.forget(&receive);
                    wakes.retire(Box::new(receive));
                }
                continue;
            }
            match verdict {
                Verdict::Keep => {}
                Verdict::Cancel => {
                    self.cancel(key);
                }
                Verdict::Rearm => self.arm(key),
                Verdict::RearmWhenBuffersReturn => {
                    self.pool.ran_out();
                    self.receives.starve(key);
                }
            }
        }
        self.verdicts = verdicts;
    }

    /// Whether a receive waits for buffers.
    pub(crate) fn has_starved(&self) -> bool {
        self.receives.has_starved()
    }

    /// Arms starved receives if buffers have returned. In a busy turn, that takes some free
    /// buffers, or a number of turns. Before the thread sleeps, one free buffer is enough.
    ///
    /// It arms at most one receive per free buffer, so that one buffer does not make a hundred
    /// receives fail again.
    pub(crate) fn resume_starved(&mut self, pace: Pace) -> Resumed {
        if !self.receives.has_starved() {
            self.turns_starved = 0;
            return Resumed::All;
        }
        self.turns_starved += 1;
        let free = self.pool.free();
        let patient = pace == Pace::Busy && self.turns_starved < MOST_TURNS_STARVED;
        if free == 0 || patient && free < self.resume_threshold {
            return Resumed::AllThatCanBe;
        }
        self.turns_starved = 0;
        for _ in 0..free {
            let Some(key) = self.receives.next_starved() else { return Resumed::All };
            self.arm_now(key);
        }
        Resumed::NotAll
    }

    /// Submits what was queued, and waits as `wait` says. It never panics: it also runs for sockets that
    /// are dropped while a panic unwinds.
    pub(crate) fn submit_and_wait(&mut self, wait: Wait) -> EnterOutcome {
        // Does not sleep while a recovery is needed.
        let wait = if self.recovery.is_some() { Wait::No } else { wait };
        self.pool.refill();
        let entered = match self.backend.enter(wait) {
            Ok(entered) => {
                self.failure = None;
                entered
            }
            Err(error) => {
                self.failure = Some(error);
                EnterOutcome::Failed
            }
        };
        match entered {
            EnterOutcome::CompletionLost => {
                self.completions_lost = self.backend.lost();
                self.recovery.get_or_insert_default();
            }
            // Trying again at once would spin.
            EnterOutcome::Refused | EnterOutcome::Failed if wait != Wait::No => {
                clock::pause(Duration::from_millis(REFUSED_PAUSE_MS));
            }
            EnterOutcome::Done | EnterOutcome::Refused | EnterOutcome::Failed => {}
        }
        entered
    }

    /// Whether the last enter failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// The message about an enter that failed.
    pub(crate) fn failure(&self) -> String {
        let error = self.failure.as_ref().map(io::Error::to_string).unwrap_or_default();
        format!("the {} driver failed: {error}", self.running)
    }

    /// Whether `collect` would find completions.
    pub(crate) fn has_completions(&mut self) -> bool {
        self.backend.has_completions()
    }

    /// Whether the kernel has more to deliver than it did in the last enter. With `DEFER_TASKRUN`,
    /// an enter delivers at most 33 datagrams per receive (docs/kernel.md, K-RECV-3). An empty
    /// datagram ends a receive, which is then queued again.
    pub(crate) fn has_work(&mut self) -> bool {
        self.backend.has_work()
    }

    /// Cancels everything in flight and collects until it has ended, or a time limit is over.
    /// Afterwards the kernel has none of the runtime's memory, or the caller must leak what it has.
    pub(crate) fn reap_all(&mut self, wakes: &mut Wakes) -> Reaped {
        for id in self.table.ids_in_flight() {
            self.backend.cancel(id);
        }
        self.receives.leave_all();
        self.backend.stop_watching();
        let deadline = clock::now() + Duration::from_millis(REAP_LIMIT_MS);
        while self.table.in_flight() > 0 || self.backend.is_watching() {
            if clock::now() >= deadline {
                return Reaped::Leaked(self.table.in_flight());
            }
            let entered = self.submit_and_wait(Wait::AtMost(Duration::from_millis(REAP_WAIT_MS)));
            if self.collect(wakes) == 0 && entered == EnterOutcome::Failed {
                return Reaped::Leaked(self.table.in_flight());
            }
        }
        Reaped::All
    }

    /// Closes the driver after `reap_all`. A ring unregisters the pool and is closed. If operations
    /// are still in flight, the caller must make sure that this driver is never dropped.
    pub(crate) fn close(&mut self, wakes: &mut Wakes) {
        if let Backend::Ring(ring) = mem::replace(&mut self.backend, Backend::Ended) {
            ring.close();
        }
        for receive in self.receives.drain() {
            wakes.retire(Box::new(receive));
        }
    }
}

impl Drop for Driver {
    /// For an end that a panic cut short: owned until final holds there, too.
    fn drop(&mut self) {
        if let Backend::Ended = self.backend {
            return;
        }
        let mut wakes = Wakes::default();
        let reaped = self.reap_all(&mut wakes);
        self.close(&mut wakes);
        wakes.run();
        if let Reaped::Leaked(_) = reaped {
            mem::forget(self.pool.clone());
            mem::forget(mem::replace(&mut self.table, Table::new()));
        }
    }
}

/// When starved receives are armed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Busy,
    AboutToSleep,
}

/// How many of the starved receives were armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    All,
    /// The others have to wait for buffers.
    AllThatCanBe,
    /// As many as there were free buffers. They may have nothing to receive while others have.
    NotAll,
}

/// Counts since the driver was started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DriverCounts {
    pub(crate) enters: u64,
    pub(crate) completions: u64,
    pub(crate) completions_lost: u64,
    pub(crate) in_flight: usize,
}
