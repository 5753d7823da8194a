//! [`Delivery`]: step 5 of the drain, stage by stage.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use super::exit::Exit;
use super::report::{DrainOutcome, DrainReport};
use super::seal::{Sealed, seal_sockets};
use super::sockets::Drainable;
use super::{Drain, look};
use crate::clock;
use crate::handle::{LocalHandle, Phase};
use crate::limits::UNCERTAIN_WAIT_MS;
use crate::task::TaskId;
use crate::time::Sleep;
use crate::timers::saturating_add;
use crate::wakes::Wakes;

pub(super) struct Delivery {
    pub(super) handle: LocalHandle,
    scope: Scope,
    /// The task that waits.
    task: TaskId,
    quiesce: bool,
    started: Instant,
    /// Sockets that are sealed later, by stage, the next stage last.
    later: Vec<(u8, Vec<Rc<dyn Drainable>>)>,
    sockets: usize,
    sealed_later: usize,
    left: usize,
    sealed: Sealed,
    /// `closed_given_up` of the sockets when the delivery began.
    closed_given_up: usize,
    deadline: Sleep,
    /// Limits the wait for what is uncertain. Replaced when that restarts.
    uncertain: Option<Sleep>,
    /// How often the runtime had been quiescent when the delivery of this stage began. When the
    /// count has grown, everything is delivered.
    quiescences: u64,
    /// How many datagrams were left and discarded.
    discarded: usize,
}

/// What a drain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The sockets. The program goes on, and can still receive the rest.
    Sockets,
    /// The runtime. The rest is counted and discarded.
    Runtime,
}

/// Whether there was another stage to seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Sealed,
    NoMore,
}

/// Why the delivery of a stage is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Nothing is left to do, as far as can be known.
    Delivered,
    DeadlinePassed,
    Stopped,
}

impl Delivery {
    pub(super) fn start(handle: LocalHandle, policy: Drain, scope: Scope) -> Self {
        let started = clock::now();
        let task = TaskId::current();
        let deadline = saturating_add(started, policy.deadline);
        handle.quiescence().enter(task, started, deadline);
        handle.tasks().drain_begins();
        let sockets = handle.sockets().open();
        let mut delivery = Self {
            started,
            scope,
            task,
            quiesce: policy.quiesce,
            sockets: sockets.len(),
            sealed_later: 0,
            left: 0,
            later: by_stage(sockets),
            closed_given_up: handle.sockets().closed_given_up(),
            sealed: Sealed::default(),
            deadline: Sleep::bound(deadline),
            uncertain: None,
            quiescences: 0,
            discarded: 0,
            handle,
        };
        delivery.seal_next();
        delivery.sealed_later = delivery.later.iter().map(|(_, sockets)| sockets.len()).sum();
        delivery
    }

    /// Seals the next stage, if there is one.
    fn seal_next(&mut self) -> Stage {
        let Some(sockets) = self.next_stage() else { return Stage::NoMore };
        self.left += sockets.iter().filter(|socket| socket.exit() == Exit::Leave).count();
        let quiesce = self.quiesce.then(|| self.deadline.deadline());
        self.sealed += seal_sockets(&self.handle, &sockets, quiesce);
        let quiescence = self.handle.quiescence();
        quiescence.begin_stage();
        self.quiescences = quiescence.count();
        Stage::Sealed
    }

    fn next_stage(&mut self) -> Option<Vec<Rc<dyn Drainable>>> {
        if let Some((_, mut sockets)) = self.later.pop() {
            // Some may have been closed meanwhile, or returned by `into_std`.
            let open = self.handle.sockets().open();
            let open: HashSet<*const ()> = open.iter().map(|it| Rc::as_ptr(it).cast()).collect();
            sockets.retain(|socket| open.contains(&Rc::as_ptr(socket).cast()));
            return Some(sockets);
        }
        if self.scope == Scope::Sockets || self.handle.phase() >= Phase::Sealed {
            return None;
        }
        // Sockets that were opened since the drain began. No others can be opened afterwards.
        self.handle.advance(Phase::Sealed);
        let mut opened = self.handle.sockets().open();
        opened.retain(|socket| !socket.is_sealed());
        self.sockets += opened.len();
        self.sealed_later += opened.len();
        Some(opened).filter(|opened| !opened.is_empty())
    }

    /// Step 5, driven by the loop: tasks run between the polls.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DrainReport> {
        loop {
            let reason = match self.poll_delivered(cx) {
                Poll::Ready(reason) => reason,
                Poll::Pending => {
                    self.handle.quiescence().wait(cx.waker());
                    return Poll::Pending;
                }
            };
            // After the deadline, the other stages are sealed one after the other.
            match self.seal_next() {
                Stage::NoMore => return Poll::Ready(self.report(reason)),
                Stage::Sealed => {}
            }
        }
    }

    /// Whether the sealed sockets have been delivered.
    fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let quiescence = self.handle.quiescence();
        if quiescence.is_stopped() {
            return Poll::Ready(Reason::Stopped);
        }
        if quiescence.count() > self.quiescences {
            if quiescence.is_reached() {
                return Poll::Ready(Reason::Delivered);
            }
            // Another drain has sealed sockets since. This drain ends with them.
            self.quiescences = quiescence.count();
        }
        if self.deadline.poll_on(|| self.handle.clone(), cx).is_ready() {
            return Poll::Ready(Reason::DeadlinePassed);
        }
        let Some(since) = quiescence.uncertain_since() else { return Poll::Pending };
        let until = since + Duration::from_millis(UNCERTAIN_WAIT_MS);
        let uncertain = match &mut self.uncertain {
            Some(uncertain) if uncertain.deadline() == until => uncertain,
            uncertain => uncertain.insert(Sleep::bound(until)),
        };
        uncertain.poll_on(|| self.handle.clone(), cx).map(|()| Reason::Delivered)
    }

    /// How many sockets were not read to the end of their queue.
    fn unread(&self) -> usize {
        let sockets = self.handle.sockets();
        let closed = sockets.closed_given_up() - self.closed_given_up;
        self.sealed.not_reaped + sockets.given_up() + closed
    }

    fn report(&mut self, reason: Reason) -> DrainReport {
        let mut wakes = Wakes::default();
        let waiting = look::waits_for_drains(&self.handle);
        let look = look::look(&self.handle, &waiting, &mut wakes);
        let is_busy = look::is_busy(&self.handle) || look.expects;
        let unread = self.unread();
        if self.scope == Scope::Runtime || reason == Reason::Stopped {
            let sockets = self.handle.sockets().open();
            self.discarded = sockets.iter().map(|socket| socket.discard_rest(&mut wakes)).sum();
        }
        wakes.run();
        let sockets = self.handle.sockets();
        let undelivered = self.discarded + sockets.undelivered();
        let mut stats = sockets.stats();
        // What was left at the end is not counted as discarded: that is for what was discarded
        // before.
        stats.discarded -= self.discarded as u64;
        let survey = self.handle.tasks().survey(&waiting, look::drain_time(&self.handle).0);
        let outcome = match reason {
            _ if unread > 0 || look::stuck(&self.handle) > 0 => DrainOutcome::DeadlinePassed,
            Reason::DeadlinePassed | Reason::Stopped if is_busy || undelivered > 0 => {
                DrainOutcome::DeadlinePassed
            }
            _ if look.waits_for_itself => DrainOutcome::WaitsForItself,
            _ if look.is_gone => DrainOutcome::ReceiversGone,
            _ if survey.at_work > 0 || self.handle.quiescence().goes_on() => {
                DrainOutcome::TasksAtWork
            }
            _ if stats.discarded + stats.abandoned > 0 => DrainOutcome::Discarded,
            _ if look.is_unclaimed => DrainOutcome::Unclaimed,
            // A receiver that was expected has not come back.
            _ if undelivered > 0 => DrainOutcome::ReceiversGone,
            _ => DrainOutcome::Complete,
        };
        DrainReport {
            outcome,
            sockets: self.sockets,
            sealed_later: self.sealed_later,
            left: self.left,
            stats,
            undelivered: undelivered as u64,
            unsealed: self.sealed.unsealed,
            quiesced: self.sealed.quiesced,
            unread,
            unfinished: look::unfinished(&self.handle),
            tasks_at_work: survey.at_work,
            tasks_unsure: survey.unsure,
            in_hand: look::in_hand(&self.handle),
            tasks_dropped: 0,
            operations_leaked: 0,
            completions_lost: self.handle.driver().counts().completions_lost,
            panicking: thread::panicking(),
            elapsed: clock::now() - self.started,
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("started", &self.started).finish_non_exhaustive()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.handle.quiescence().leave(self.task);
        self.handle.tasks().drain_ends();
    }
}

/// The sockets of each stage, the first stage last. There is always one stage, which may be empty.
fn by_stage(sockets: Vec<Rc<dyn Drainable>>) -> Vec<(u8, Vec<Rc<dyn Drainable>>)> {
    let mut stages = BTreeMap::from([(0, Vec::new())]);
    for socket in sockets {
        stages.entry(socket.exit().stage()).or_default().push(socket);
    }
    stages.into_iter().rev().collect()
}
