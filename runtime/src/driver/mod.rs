//! The driver: the operations in flight, and the ring that they are in flight on.
//!
//! ```text
//! submit, arm, cancel -> Ring::push     (entries wait in the queue)
//! submit_and_wait     -> Ring::enter    (one system call a turn)
//! collect             <- Ring::completions -> Table::complete -> wake a future | feed a sink
//! ```
//!
//! It keeps the invariant **owned until final** (see [`table`]): operations, and the sinks of
//! multishots with their sockets, belong to the driver until their final completion.
//!
//! The driver knows no socket and runs no user code: what is to be woken or dropped is left in
//! [`Wakes`] for the runtime, which runs it when the driver is no longer borrowed.

// UNSAFETY: one call, `Ring::push`, whose contract this file keeps.
#![expect(unsafe_code, reason = "argued above")]

pub(crate) mod descriptor;
mod message;
mod operation;
mod ring;
mod sink;
mod start;
mod table;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use io_uring::cqueue;
use slab::Slab;

pub use self::descriptor::Interest;
pub use self::message::{Layout, OutgoingMessage, ReceivedMessage};
use self::operation::AnyOperation;
pub use self::operation::{Activity, Operation, Readiness, Submission};
pub(crate) use self::ring::Wait;
use self::ring::{Entered, Request, Ring};
pub use self::sink::{Armed, Reception, Sink, Verdict, Wakes};
pub use self::start::{StartCause, StartError, TaskRun};
use self::table::{Completion, Finality, Orphan, Table};
pub(crate) use self::table::{Id, Polled};
use crate::buffer::Pool;
use crate::limits::{Limits, REAP_LIMIT_MS};

/// User data of the poll that other threads wake us through. No id has it: the table would need
/// 2^32 - 1 slots.
const WAKEUP: u64 = u64::MAX;
/// User data of cancel requests, whose own completions say nothing that the cancelled one does not.
const CANCEL: u64 = u64::MAX - 1;

/// Names one multishot receive for as long as its socket exists, through all its re-armings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MultishotKey(usize);

pub(crate) struct Driver {
    /// `None` after the end.
    ring: Option<Ring>,
    table: Table<Box<dyn AnyOperation>, MultishotKey>,
    multishots: Slab<Multishot>,
    /// Multishots that ended for want of buffers, longest wait first.
    starved: VecDeque<MultishotKey>,
    pool: Pool,
    /// Free buffers at which a busy turn re-arms starved multishots.
    resume_threshold: usize,
    wakeup: Watch,
    /// Verdicts of one `collect`, carried out after it; kept for its memory.
    verdicts: Vec<(MultishotKey, Verdict)>,
    /// How many active operations are in flight.
    active: usize,
    task_run: TaskRun,
    completions: u64,
    completions_lost: u64,
}

struct Multishot {
    sink: Rc<dyn Sink>,
    /// What the kernel is shown; on the heap because it reads it at submission, which may be later.
    template: Box<libc::msghdr>,
    phase: Phase,
    /// Whether the sink stays when the receive has ended.
    membership: Membership,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// Waits in `starved`.
    Starved,
    InFlight(Id),
    /// A cancel was pushed; the final completion has not been collected.
    Cancelling(Id),
}

#[derive(PartialEq, Eq)]
enum Membership {
    Member,
    /// To be removed at the final completion.
    Leaving,
}

/// The poll on the eventfd.
struct Watch {
    eventfd: Arc<File>,
    /// True exactly when the poll is in flight.
    armed: bool,
}

/// Whether `reap_all` saw every final completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaped {
    All,
    /// The kernel did not give back this many operations; their memory was leaked.
    Leaked(usize),
}

impl Driver {
    /// Opens a ring; `eventfd` is what other threads will write to.
    pub(crate) fn new(limits: &Limits, eventfd: Arc<File>) -> io::Result<Self> {
        let pool = Pool::new(limits.buffers, limits.buffer_size)?;
        let started = start::open(limits, &pool)?;
        let mut driver = Self {
            ring: Some(started.ring),
            table: Table::new(),
            multishots: Slab::new(),
            starved: VecDeque::new(),
            pool,
            resume_threshold: limits.resume_threshold(),
            wakeup: Watch { eventfd, armed: false },
            verdicts: Vec::new(),
            active: 0,
            task_run: started.task_run,
            completions: 0,
            completions_lost: 0,
        };
        driver.watch_wakeups();
        Ok(driver)
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn task_run(&self) -> TaskRun {
        self.task_run
    }

    pub(crate) fn completion_entries(&self) -> u32 {
        self.ring.as_ref().map_or(0, Ring::completion_entries)
    }

    /// How many operations are in flight that the end of the program waits for.
    pub(crate) fn active(&self) -> usize {
        self.active
    }

    pub(crate) fn counts(&self) -> DriverCounts {
        DriverCounts {
            enters: self.ring.as_ref().map_or(0, Ring::enters),
            completions: self.completions,
            completions_lost: self.completions_lost,
            in_flight: self.table.in_flight(),
        }
    }

    /// Takes over `operation` and queues its submission.
    pub(crate) fn submit(&mut self, operation: Box<dyn AnyOperation>) -> Id {
        self.active += operation.activity().count();
        let id = self.table.insert(operation);
        let Some(ring) = &mut self.ring else {
            self.table.complete(id, -libc::ESHUTDOWN, Finality::Final);
            return id;
        };
        let request = Request::Once(self.table.operation(id).submission());
        // SAFETY: owned until final: the table holds the operation, which is boxed, and hands it
        // out only after its final completion; the submission borrows from nothing else.
        unsafe { ring.push(id.to_user_data(), &request) };
        id
    }

    /// A future asks for its result, or leaves `waker`. Drop what it returns after the borrow.
    pub(crate) fn poll(&mut self, id: Id, waker: Waker) -> Polled<Box<dyn AnyOperation>> {
        let polled = self.table.poll(id, waker);
        if let Polled::Ready(operation, _) = &polled {
            self.active -= operation.as_ref().activity().count();
        }
        polled
    }

    /// The future of `id` is gone.
    pub(crate) fn orphan(&mut self, id: Id, wakes: &mut Wakes) {
        match self.table.orphan(id) {
            Orphan::Cancel { waker } => {
                self.push_cancel(id.to_user_data());
                wakes.retire(Box::new(waker));
            }
            Orphan::Retire(operation) => {
                self.active -= operation.as_ref().activity().count();
                wakes.retire(operation);
            }
        }
    }

    /// Takes in a sink, whose receive is not armed yet.
    pub(crate) fn register(&mut self, sink: Rc<dyn Sink>) -> MultishotKey {
        let template = Box::new(sink.layout().template());
        let multishot =
            Multishot { sink, template, phase: Phase::Idle, membership: Membership::Member };
        MultishotKey(self.multishots.insert(multishot))
    }

    /// Arms the receive of `key`, unless it is armed; if no buffer is free, as soon as one is.
    pub(crate) fn arm(&mut self, key: MultishotKey) {
        let multishot = &mut self.multishots[key.0];
        if !matches!(multishot.phase, Phase::Idle | Phase::Starved) {
            return;
        }
        let Some(ring) = &mut self.ring else { return };
        if self.pool.free() == 0 {
            // It would end at once, even if no datagram waits.
            if multishot.phase == Phase::Idle {
                multishot.phase = Phase::Starved;
                self.starved.push_back(key);
            }
            return;
        }
        let id = self.table.insert_multishot(key);
        multishot.phase = Phase::InFlight(id);
        let socket = multishot.sink.socket();
        let request = Request::Receive { socket, template: &multishot.template };
        // SAFETY: owned until final: `deregister` removes the sink, which keeps the socket open,
        // and the template, which is boxed, only when no receive is in flight. Payloads go to the
        // pool, which outlives the ring.
        unsafe { ring.push(id.to_user_data(), &request) };
    }

    /// Asks the kernel to end the receive of `key`. Completions go on until the final one.
    pub(crate) fn cancel(&mut self, key: MultishotKey) {
        let Some(multishot) = self.multishots.get_mut(key.0) else { return };
        match multishot.phase {
            Phase::InFlight(id) => {
                multishot.phase = Phase::Cancelling(id);
                self.push_cancel(id.to_user_data());
            }
            Phase::Starved => multishot.phase = Phase::Idle,
            Phase::Idle | Phase::Cancelling(_) => {}
        }
    }

    /// Whether the kernel has nothing of `key`.
    pub(crate) fn is_reaped(&self, key: MultishotKey) -> bool {
        let multishot = self.multishots.get(key.0);
        multishot.is_none_or(|member| matches!(member.phase, Phase::Idle | Phase::Starved))
    }

    /// Lets the sink of `key` go: now, or at the final completion of its receive, which is
    /// cancelled. Drop what it returns after the borrow.
    pub(crate) fn deregister(&mut self, key: MultishotKey) -> Option<Rc<dyn Sink>> {
        self.cancel(key);
        if self.is_reaped(key) {
            return self.multishots.try_remove(key.0).map(|multishot| multishot.sink);
        }
        self.multishots[key.0].membership = Membership::Leaving;
        None
    }

    /// Takes in every completion that was posted: wakes futures, feeds sinks, carries out what the
    /// sinks answer.
    pub(crate) fn collect(&mut self, wakes: &mut Wakes) {
        let Some(ring) = &mut self.ring else { return };
        let mut watch_ended = false;
        for completion in ring.completions() {
            self.completions += 1;
            let finality = match cqueue::more(completion.flags()) {
                true => Finality::More,
                false => Finality::Final,
            };
            match completion.user_data() {
                WAKEUP => watch_ended |= finality == Finality::Final,
                CANCEL => {}
                user_data => {
                    let id = Id::from_user_data(user_data);
                    match self.table.complete(id, completion.result(), finality) {
                        Completion::Wake(waker) => wakes.wake(waker),
                        Completion::Retire(operation) => {
                            self.active -= operation.as_ref().activity().count();
                            wakes.retire(operation);
                        }
                        Completion::Deliver(key) => {
                            let multishot = &mut self.multishots[key.0];
                            let verdict =
                                multishot.deliver(&completion, finality, &self.pool, wakes);
                            if finality == Finality::Final || verdict != Verdict::Keep {
                                self.verdicts.push((key, verdict));
                            }
                        }
                        Completion::Stale => {}
                    }
                }
            }
        }
        self.carry_out_verdicts(wakes);
        if watch_ended {
            self.wakeup.armed = false;
            self.watch_wakeups();
        }
    }

    fn carry_out_verdicts(&mut self, wakes: &mut Wakes) {
        let mut verdicts = mem::take(&mut self.verdicts);
        for (key, verdict) in verdicts.drain(..) {
            // An earlier verdict of this batch may have been its last.
            let Some(multishot) = self.multishots.get_mut(key.0) else { continue };
            if multishot.membership == Membership::Leaving {
                if self.is_reaped(key) {
                    wakes.retire_sink(self.multishots.remove(key.0).sink);
                }
                continue;
            }
            match verdict {
                Verdict::Keep => {}
                Verdict::Cancel => self.cancel(key),
                Verdict::Rearm => self.arm(key),
                Verdict::RearmWhenBuffersReturn => {
                    multishot.phase = Phase::Starved;
                    self.starved.push_back(key);
                }
            }
        }
        self.verdicts = verdicts;
    }

    /// Re-arms starved receives if buffers have come back: a few at once in a busy turn, any at all
    /// before the thread sleeps. At most one receive per free buffer, so that a single buffer that
    /// comes back does not make a hundred sockets fail again.
    pub(crate) fn resume_starved(&mut self, pace: Pace) {
        let free = self.pool.free();
        let threshold = match pace {
            Pace::Busy => self.resume_threshold,
            Pace::AboutToSleep => 1,
        };
        if self.starved.is_empty() || free < threshold {
            return;
        }
        let mut armed = 0;
        while armed < free {
            let Some(key) = self.starved.pop_front() else { break };
            // A socket may have been cancelled, or be gone, while it stood in the list.
            let starved =
                self.multishots.get(key.0).is_some_and(|member| member.phase == Phase::Starved);
            if starved {
                self.arm(key);
                armed += 1;
            }
        }
    }

    /// Submits what was queued and waits as asked.
    ///
    /// # Panics
    ///
    /// If the ring itself fails, for example because it was entered from another thread.
    pub(crate) fn submit_and_wait(&mut self, wait: Wait) {
        let Some(ring) = &mut self.ring else { return };
        match ring.enter(wait) {
            Ok(Entered::Done | Entered::Refused) => {}
            Ok(Entered::CompletionLost) => self.completions_lost += 1,
            Err(error) => panic!("io_uring_enter failed: {error}"),
        }
    }

    /// Whether `collect` has something to take in.
    pub(crate) fn has_completions(&mut self) -> bool {
        self.ring.as_mut().is_some_and(Ring::has_completions)
    }

    /// Whether the kernel has more to deliver than the last enter let it: with `DEFER_TASKRUN` one
    /// enter delivers at most 33 datagrams per socket, and an empty datagram ends a receive, which
    /// has been queued again.
    pub(crate) fn has_work(&mut self) -> bool {
        self.ring.as_mut().is_some_and(Ring::has_work)
    }

    /// Cancels whatever is in flight and collects until all of it has ended, or a generous time is
    /// over. Afterwards the kernel holds no memory of ours, or what it holds has been leaked.
    pub(crate) fn reap_all(&mut self, wakes: &mut Wakes) -> Reaped {
        for id in self.table.ids_in_flight() {
            self.push_cancel(id.to_user_data());
        }
        for (_, multishot) in &mut self.multishots {
            multishot.membership = Membership::Leaving;
        }
        if self.wakeup.armed {
            self.push_cancel(WAKEUP);
        }
        let deadline = Instant::now() + Duration::from_millis(REAP_LIMIT_MS);
        while self.table.in_flight() > 0 && Instant::now() < deadline {
            self.submit_and_wait(Wait::AtMost(Duration::from_millis(100)));
            self.collect(wakes);
        }
        self.submit_and_wait(Wait::No);
        self.collect(wakes);
        match self.table.in_flight() {
            0 => Reaped::All,
            count => Reaped::Leaked(count),
        }
    }

    /// Ends the driver after `reap_all`: unregisters the pool and closes the ring.
    pub(crate) fn close(&mut self, reaped: Reaped, wakes: &mut Wakes) {
        let Some(ring) = self.ring.take() else { return };
        ring.close();
        if matches!(reaped, Reaped::Leaked(_)) {
            // The kernel may still write to the pool and read from operations.
            mem::forget(self.pool.clone());
            mem::forget(mem::replace(&mut self.table, Table::new()));
            mem::forget(mem::take(&mut self.multishots));
            return;
        }
        for multishot in self.multishots.drain() {
            wakes.retire_sink(multishot.sink);
        }
    }

    fn push_cancel(&mut self, user_data: u64) {
        let Some(ring) = &mut self.ring else { return };
        // SAFETY: a cancel names no memory.
        unsafe { ring.push(CANCEL, &Request::Cancel(user_data)) };
    }

    fn watch_wakeups(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        self.wakeup.armed = true;
        // SAFETY: a poll names no memory, only the descriptor, which `wakeup` keeps open.
        unsafe { ring.push(WAKEUP, &Request::Watch(self.wakeup.eventfd.as_fd())) };
    }
}

/// How soon starved receives are re-armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Busy,
    AboutToSleep,
}

/// Counts since the driver was started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DriverCounts {
    pub(crate) enters: u64,
    pub(crate) completions: u64,
    pub(crate) completions_lost: u64,
    pub(crate) in_flight: usize,
}

impl Multishot {
    /// Makes a reception of a completion and hands it to the sink.
    fn deliver(
        &mut self,
        completion: &cqueue::Entry,
        finality: Finality,
        pool: &Pool,
        wakes: &mut Wakes,
    ) -> Verdict {
        let armed = match finality {
            Finality::More => Armed::Still,
            Finality::Final => {
                self.phase = Phase::Idle;
                Armed::NoMore
            }
        };
        let buffer = cqueue::buffer_select(completion.flags()).map(|id| pool.take(id));
        let result = match (usize::try_from(completion.result()), buffer) {
            (Ok(len), Some(buffer)) => {
                let message = ReceivedMessage::from_buffer(buffer, len, self.sink.layout());
                message.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
            (Ok(_), None) => Ok(None),
            (Err(_), _) => Err(io::Error::from_raw_os_error(-completion.result())),
        };
        self.sink.complete(Reception { result, armed, free_buffers: pool.free() }, wakes)
    }
}
