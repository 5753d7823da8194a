//! The drain: how a runtime ends without losing a datagram.
//!
//! ```text
//! 1 seal      every datagram socket: from here on its queue only shrinks
//! 2 cancel    every receive in flight
//! 3 reap      to the final completion of each: what was received is in the inboxes, in order
//! 4 read      the first batch of each socket, without waiting: whoever waits for it is woken
//! 5 deliver   run tasks, whose receives read on until EAGAIN, until nothing is left to do, or the
//!             deadline; what nobody has taken then is read to be counted
//! 6 end       drop the tasks; cancel and reap whatever is left; close sockets, pool and ring
//! ```
//!
//! [`seal_sockets`] is steps 1 to 4, takes no await and runs no user code; [`drain`] adds step 5;
//! [`Runtime::shutdown`](crate::Runtime::shutdown) adds step 6. The order of 3 and 4 keeps the
//! queue's order, and only after 1 does the end of 4 mean anything.
//!
//! The runtime knows no socket: what is drained is a [`Drainable`].

mod backlog;
mod deliveries;
mod exit;
mod membarrier;
mod quiescence;
mod report;
mod sockets;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::Future;
use std::ops::AddAssign;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use self::deliveries::{wait_for_all, wait_for_what_is_in_hand};
pub use self::exit::{Exit, ExitHold, hold_exit};
pub(crate) use self::membarrier::global as membarrier;
pub(crate) use self::quiescence::Quiescence;
pub(crate) use self::quiescence::Ready;
use self::quiescence::{Look, Progress, Receiver, Standing};
pub use self::report::{DrainError, DrainOutcome, DrainReport, Quiesced, SocketStats};
pub(crate) use self::sockets::OpenSockets;
pub use self::sockets::{DrainKey, Drainable, Member, Pass, Presence, ReadProgress, Receivers};
use crate::clock;
use crate::handle::{LocalHandle, Phase};
use crate::limits::{DRAIN_READ_BATCH, UNCERTAIN_WAIT_MS};
use crate::task::{Cause, GiveWay, TaskId};
use crate::time::Sleep;
use crate::timers::saturating_add;
use crate::wakes::Wakes;

/// How a drain is carried out.
///
/// ```
/// use std::time::Duration;
/// use ebbtide_runtime::Drain;
///
/// let policy = Drain::default().deadline(Duration::from_secs(2));
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Drain {
    deadline: Duration,
    quiesce: bool,
}

impl Default for Drain {
    /// A deadline of 10 seconds, without `quiesce`.
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), quiesce: false }
    }
}

impl Drain {
    /// How long receivers get to take what was queued, counted from the start of the drain. What is
    /// left then is counted as undelivered. Sealing and reading are not cut short by it: they are
    /// finite by themselves.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whether to wait, before and after the seal, for datagrams whose `send` has returned but
    /// which another CPU has not queued yet (receive packet steering, a real network card). Off by
    /// default. What comes after the seal counts as refused.
    ///
    /// Before the seal it waits until each CPU has processed what its receive backlog held
    /// (`/proc/net/softnet_stat`, Linux 5.10), and then until each has been through the scheduler
    /// (`membarrier(MEMBARRIER_CMD_GLOBAL)`), which ends what it was carrying to a socket. After the
    /// seal only the latter is left to be waited for. This costs what the backlogs take, and about
    /// 40 ms twice; the sockets are read meanwhile. It ends at the [`deadline`](Self::deadline).
    /// [`DrainReport::quiesced`] says whether the wait was had.
    ///
    /// Beside a network card it may end early: packets that the card delivers on a CPU count as
    /// processed by it. That the scheduler orders the network's work is how Linux does it, not what
    /// it promises.
    pub fn quiesce(mut self, quiesce: bool) -> Self {
        self.quiesce = quiesce;
        self
    }
}

impl LocalHandle {
    /// Step 6 for the sockets that outlive their tasks, because the program holds them elsewhere.
    pub(crate) fn end_sockets(&self) {
        for socket in self.sockets().take_open() {
            socket.end();
            self.sockets().close(&*socket);
        }
    }

    /// Called when no task is ready, and from time to time where some always are: wakes those who wait for
    /// it if there is nothing left to do.
    pub(crate) fn notice_quiescence(&self, ready: Ready) {
        let quiescence = self.quiescence();
        let is_awaited = quiescence.is_awaited();
        quiescence.set_held_open(is_awaited && self.blocking().count() > 0);
        // Who waited may have dropped its drain.
        if !is_awaited || quiescence.time().is_none() {
            return;
        }
        let mut wakes = Wakes::default();
        let standing = match (self.standing(&mut wakes), ready) {
            (Standing::Quiescent, Ready::Always) => Standing::Uncertain,
            (standing, _) => standing,
        };
        let (delivered, steps) = (self.sockets().delivered(), self.tasks().progress());
        let done = Progress { delivered, steps };
        quiescence.notice(standing, clock::now(), done, &mut wakes);
        self.tasks().wake_because_of(Cause::Drain, || wakes.run());
    }

    /// What is known of the runtime now.
    fn standing(&self, wakes: &mut Wakes) -> Standing {
        if self.under_way() > self.stuck() {
            // A send may wait for room on a socket that waits for buffers. Its stage may be a later one:
            // once it is sealed, it is read without buffers.
            let waits_for_buffers = self.blocking().count() == 0 && self.driver().has_starved();
            return if waits_for_buffers { Standing::Uncertain } else { Standing::Busy };
        }
        let waiting = self.waits_for_drains();
        let look = self.look(&waiting, wakes);
        let survey = self.tasks().survey(&waiting, self.drain_time().0);
        look.standing(&survey, self.in_hand(), self.driver().active().unclaimed)
    }

    /// When the drains that are under way began, and when they end.
    fn drain_time(&self) -> (Instant, Instant) {
        self.quiescence().time().expect("a drain is under way")
    }

    /// The tasks that wait for drains, themselves or through others.
    fn waits_for_drains(&self) -> Vec<TaskId> {
        let mut tasks = self.quiescence().tasks();
        self.tasks().add_who_awaits(&mut tasks);
        tasks
    }

    /// What the receivers of the sockets have still to do, where the tasks `waiting` wait for drains.
    fn look(&self, waiting: &[TaskId], wakes: &mut Wakes) -> Look {
        let sockets = self.sockets().open();
        let all: Vec<_> = sockets.iter().map(|socket| socket.receivers(wakes)).collect();
        let (start, end) = self.drain_time();
        let waits: HashSet<(TaskId, usize)> = (all.iter().enumerate())
            .flat_map(|(index, receivers)| receivers.members.iter().map(move |it| (index, it)))
            .filter(|(_, member)| member.presence == Presence::Waiting)
            .map(|(index, member)| (member.task, index))
            .collect();
        let waits_anywhere: HashSet<TaskId> = waits.iter().map(|(task, _)| *task).collect();
        let mut look = Look::default();
        for (index, (socket, receivers)) in sockets.iter().zip(&all).enumerate() {
            if !socket.is_sealed() {
                continue;
            }
            let living = receivers.members.iter().filter_map(|member| {
                let presence = self.tasks().presence(member.task, start, end)?;
                let waits_elsewhere =
                    waits_anywhere.contains(&member.task) && !waits.contains(&(member.task, index));
                Some(Receiver {
                    presence: member.presence,
                    waits_for_drain: waiting.contains(&member.task),
                    has_moved_on: waits_elsewhere && presence.last_handed != member.last_handed,
                    task: presence,
                })
            });
            let had_any = receivers.has_forgotten || !receivers.members.is_empty();
            // What was taken from those who hold a socket, too, they would have wanted.
            let had_any = had_any || socket.exit() == Exit::Leave;
            look.take(socket.undelivered(), living, had_any);
        }
        look
    }

    /// Operations in flight, blocking calls and holds that hold up the exit.
    fn under_way(&self) -> usize {
        self.driver().active().in_flight + self.blocking().count()
    }

    /// The same, and operations that have completed, if nobody has taken their results.
    fn unfinished(&self) -> usize {
        self.under_way() + self.driver().active().unclaimed
    }

    /// Of those, operations that will not finish, because the driver fails.
    fn stuck(&self) -> usize {
        let driver = self.driver();
        if driver.has_failed() { driver.active().in_flight } else { 0 }
    }

    /// Whether what held the exit open at the last look was let go since, by another thread.
    pub(crate) fn was_let_go(&self) -> bool {
        self.quiescence().is_held_open() && self.blocking().count() == 0
    }

    /// How many messages that were received the program holds.
    pub(crate) fn in_hand(&self) -> usize {
        self.pool().held().saturating_sub(self.sockets().buffers_held())
    }

    /// The exit waits for nothing any more: a drain that is under way ends at once, and each that
    /// follows.
    pub(crate) fn stop_draining(&self) {
        let mut wakes = Wakes::default();
        self.quiescence().stop(&mut wakes);
        wakes.run();
    }
}

/// Seals every datagram socket of the runtime that is open now, stage by stage ([`Exit`]).
///
/// When it returns, every datagram that was queued before the seal has been handed to a receiver,
/// or the deadline of the policy has passed and the report counts what is left. The program goes
/// on, and can open new sockets. A socket that the kernel refuses to seal is read once: see
/// [`DrainReport::unsealed`].
///
/// All sockets are sealed at once, unless they say otherwise: what a relay sends on to another socket
/// of the same runtime is then refused there, and so are the answers of an upstream. Such a socket is
/// to be sealed later: [`Exit::SealLast`].
///
/// What a receiver does with its last datagram is waited for until it comes back for the end, and so
/// are sends, calls of `spawn_blocking` and [holds](ExitHold). A task that works on what others
/// have received, because one of them has woken or spawned it, is waited for until 250 ms have passed
/// without progress, and so is one tick of whatever is periodic; if work needs longer, it holds the exit
/// open. Timeouts are not waited for.
///
/// A task that is itself the only receiver of a socket must not wait for this, neither directly nor
/// through a join handle: the drain notices, and ends with [`DrainOutcome::WaitsForItself`]. Call the
/// socket's own `drain` and then receive until `None`, or drain in a task of its own. A hold of a task
/// that waits for the drain is waited for until the deadline.
///
/// # Cancellation
///
/// The sockets of the first stage are sealed at the first poll; dropping the future after that stops
/// waiting, and does not seal those of later stages.
///
/// ```
/// ebbtide_runtime::run(async {
///     let report = ebbtide_runtime::drain().await;
///     assert_eq!(report.undelivered, 0);
///     std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub fn drain() -> Draining {
    drain_with(Drain::default())
}

/// [`drain`] with a policy of its own.
pub fn drain_with(policy: Drain) -> Draining {
    Draining { policy, state: State::Start { handle: None, way: GiveWay::default() } }
}

/// The drain of a runtime that may not be that of the thread any more, because the thread ends.
pub(crate) fn drain_of(handle: &LocalHandle, policy: Drain) -> Draining {
    Draining {
        policy,
        state: State::Start { handle: Some(handle.clone()), way: GiveWay::default() },
    }
}

/// The future of [`drain`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Draining {
    policy: Drain,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing was done yet. `None`: the runtime of the thread that polls. A drain may have nothing to
    /// wait for.
    Start { handle: Option<LocalHandle>, way: GiveWay },
    /// Steps 1 to 4 are done; receivers take what was queued.
    Delivering(Box<Delivery>),
    /// The report was returned. The future may be kept, but its task does not wait any more.
    Ended,
}

struct Delivery {
    handle: LocalHandle,
    scope: Scope,
    /// The task that waits.
    task: TaskId,
    quiesce: bool,
    started: Instant,
    /// Sockets that are sealed later, by stage, the next one last.
    later: Vec<(u8, Vec<Rc<dyn Drainable>>)>,
    sockets: usize,
    sealed_later: usize,
    left: usize,
    sealed: Sealed,
    /// `closed_given_up` of the sockets when the delivery began.
    closed_given_up: usize,
    deadline: Sleep,
    /// Bounds the wait for what is uncertain; made anew when that begins anew.
    uncertain: Option<Sleep>,
    /// The count of quiescences when the delivery of this stage began: once it has grown, all is
    /// delivered.
    quiescences: u64,
    /// What was left, and thrown away.
    discarded: usize,
}

/// What a drain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The program goes on: what is left can still be received.
    Sockets,
    /// The runtime: what is left is counted and thrown away.
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
    /// There is nothing left to do, as far as can be known.
    Delivered,
    DeadlinePassed,
    Stopped,
}

impl Future for Draining {
    type Output = DrainReport;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DrainReport> {
        if let State::Start { handle, way } = &mut self.state {
            ready!(way.poll(cx));
            let (handle, scope) = match handle.take() {
                Some(handle) => (handle, Scope::Runtime),
                None => (LocalHandle::current(), Scope::Sockets),
            };
            self.state = State::Delivering(Box::new(Delivery::start(handle, self.policy, scope)));
        }
        let State::Delivering(delivery) = &mut self.state else {
            panic!("a drain was polled after its end");
        };
        delivery.handle.assert_own();
        let polled = delivery.poll(cx);
        if polled.is_ready() {
            self.state = State::Ended;
        }
        polled
    }
}

impl Delivery {
    fn start(handle: LocalHandle, policy: Drain, scope: Scope) -> Self {
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
            // Some may be closed by now, or given back.
            let open = self.handle.sockets().open();
            let open: HashSet<*const ()> = open.iter().map(|it| Rc::as_ptr(it).cast()).collect();
            sockets.retain(|socket| open.contains(&Rc::as_ptr(socket).cast()));
            return Some(sockets);
        }
        if self.scope == Scope::Sockets || self.handle.phase() >= Phase::Sealed {
            return None;
        }
        // Those that were opened since it began. Afterwards none is.
        self.handle.advance(Phase::Sealed);
        let mut opened = self.handle.sockets().open();
        opened.retain(|socket| !socket.is_sealed());
        self.sockets += opened.len();
        self.sealed_later += opened.len();
        Some(opened).filter(|opened| !opened.is_empty())
    }

    /// Step 5, driven by the loop: tasks run between the polls.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DrainReport> {
        loop {
            let reason = match self.poll_delivered(cx) {
                Poll::Ready(reason) => reason,
                Poll::Pending => {
                    self.handle.quiescence().wait(cx.waker());
                    return Poll::Pending;
                }
            };
            // Past the deadline, the stages that are left are sealed one right after the other.
            match self.seal_next() {
                Stage::NoMore => return Poll::Ready(self.report(reason)),
                Stage::Sealed => {}
            }
        }
    }

    /// Whether the sockets that are sealed have been delivered.
    fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let quiescence = self.handle.quiescence();
        if quiescence.is_stopped() {
            return Poll::Ready(Reason::Stopped);
        }
        if quiescence.count() > self.quiescences {
            if quiescence.is_reached() {
                return Poll::Ready(Reason::Delivered);
            }
            // Another drain has sealed others since: this one ends with them.
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
        let waiting = self.handle.waits_for_drains();
        let look = self.handle.look(&waiting, &mut wakes);
        let is_busy = self.handle.under_way() > self.handle.stuck() || look.expects;
        let unread = self.unread();
        if self.scope == Scope::Runtime || reason == Reason::Stopped {
            let sockets = self.handle.sockets().open();
            self.discarded = sockets.iter().map(|socket| socket.discard_rest(&mut wakes)).sum();
        }
        wakes.run();
        let sockets = self.handle.sockets();
        let undelivered = self.discarded + sockets.undelivered();
        let mut stats = sockets.stats();
        // They are told apart: what was left at the end, and what was thrown away before.
        stats.discarded -= self.discarded as u64;
        let survey = self.handle.tasks().survey(&waiting, self.handle.drain_time().0);
        let outcome = match reason {
            _ if unread > 0 || self.handle.stuck() > 0 => DrainOutcome::DeadlinePassed,
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
            // Whoever was expected has not come.
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
            unfinished: self.handle.unfinished(),
            tasks_at_work: survey.at_work,
            tasks_unsure: survey.unsure,
            in_hand: self.handle.in_hand(),
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

/// The sockets of each stage, the first stage last. There is always one, which may be empty.
fn by_stage(sockets: Vec<Rc<dyn Drainable>>) -> Vec<(u8, Vec<Rc<dyn Drainable>>)> {
    let mut stages = BTreeMap::from([(0, Vec::new())]);
    for socket in sockets {
        stages.entry(socket.exit().stage()).or_default().push(socket);
    }
    stages.into_iter().rev().collect()
}

/// What steps 1 to 4 could not do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sealed {
    /// Sockets that the kernel refused to seal.
    pub(crate) unsealed: usize,
    /// Sockets whose receive the kernel did not give back in time. They were not read: what is
    /// received late would come after what was read.
    pub(crate) not_reaped: usize,
    /// Whether senders were waited for.
    pub(crate) quiesced: Quiesced,
}

impl AddAssign for Sealed {
    fn add_assign(&mut self, other: Self) {
        self.unsealed += other.unsealed;
        self.not_reaped += other.not_reaped;
        self.quiesced = self.quiesced.worse(other.quiesced);
    }
}

/// Steps 1 to 4 for some sockets. `quiesce`: waits for senders, until then.
///
/// To wait for senders, the receives are ended first, so that the sockets can be read meanwhile
/// without depending on the pool; what the seal then finds queued is what arrived last.
pub(crate) fn seal_sockets(
    handle: &LocalHandle,
    sockets: &[Rc<dyn Drainable>],
    quiesce: Option<Instant>,
) -> Sealed {
    handle.assert_own();
    let mut wakes = Wakes::default();
    let (unsealed, quiesced);
    if let Some(deadline) = quiesce {
        // What is on its way to them is waited for, too.
        leave_shares(sockets);
        cancel_and_reap(handle, sockets, &mut wakes);
        let before = wait_for_all(deadline, &mut || read_early(sockets, &mut wakes));
        unsealed = seal(sockets);
        let after = wait_for_what_is_in_hand(deadline, &mut || read_early(sockets, &mut wakes));
        quiesced = before.worse(after);
    } else {
        unsealed = seal(sockets);
        cancel_and_reap(handle, sockets, &mut wakes);
        quiesced = Quiesced::NotAsked;
    }
    read_first(sockets, &mut wakes);
    handle.wake_from_outside(wakes);
    let not_reaped = sockets.iter().filter(|socket| !socket.is_reaped()).count();
    Sealed { unsealed, not_reaped, quiesced }
}

/// While senders are waited for, so that no buffer of a socket overflows. Without a pause: whoever gets
/// this processor instead may well be a sender.
fn read_early(sockets: &[Rc<dyn Drainable>], wakes: &mut Wakes) {
    for socket in sockets {
        socket.read(DRAIN_READ_BATCH, Pass::Early, wakes);
    }
}

/// Step 1. Returns how many sockets the kernel refused to seal. Where the whole of a group that shares
/// an address is sealed, all its members leave it before the first is sealed: what comes meanwhile is
/// queued on one that is read.
fn seal(sockets: &[Rc<dyn Drainable>]) -> usize {
    leave_shares(sockets);
    sockets.iter().filter(|socket| socket.seal().is_err()).count()
}

fn leave_shares(sockets: &[Rc<dyn Drainable>]) {
    sockets.iter().for_each(|socket| socket.leave_share());
}

/// Steps 2 and 3. Lossless because a cancel never takes a datagram: all that was received has a
/// completion of its own before the final one.
fn cancel_and_reap(handle: &LocalHandle, sockets: &[Rc<dyn Drainable>], wakes: &mut Wakes) {
    for socket in sockets {
        socket.cancel();
    }
    handle.collect_until(|| sockets.iter().all(|socket| socket.is_reaped()), wakes);
}

/// Step 4. Reads on over errors, so that a socket that cannot be read at all is found out.
fn read_first(sockets: &[Rc<dyn Drainable>], wakes: &mut Wakes) {
    for socket in sockets {
        let before = socket.undelivered();
        while socket.read(DRAIN_READ_BATCH, Pass::Last, wakes) == ReadProgress::More
            && socket.undelivered() == before
        {}
    }
}
