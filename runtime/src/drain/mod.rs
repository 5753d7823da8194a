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

mod membarrier;
mod quiescence;
mod report;
mod sockets;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use self::membarrier::global as membarrier;
pub(crate) use self::quiescence::Quiescence;
pub use self::report::{DrainOutcome, DrainReport, SocketStats};
pub(crate) use self::sockets::OpenSockets;
pub use self::sockets::{DrainKey, Drainable, Pass, ReadProgress, Receivers};
use crate::driver::Wakes;
use crate::handle::Handle;
use crate::limits::DRAIN_READ_BATCH;
use crate::time::{Sleep, clock, sleep};

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
    /// which another CPU has not queued yet (receive packet steering, a real network card).
    ///
    /// Costs about 40 ms each time: `membarrier(MEMBARRIER_CMD_GLOBAL)`, which waits until every
    /// CPU has been through the scheduler. That this orders the network's work is how Linux does
    /// it, not what it promises: one drain of some thousands, on an overloaded machine, left
    /// datagrams behind. Off by default. What comes after the seal counts as refused.
    pub fn quiesce(mut self, quiesce: bool) -> Self {
        self.quiesce = quiesce;
        self
    }
}

impl Handle {
    /// Step 6 for the sockets that outlive their tasks, because the program holds them elsewhere.
    pub(crate) fn end_sockets(&self) {
        for socket in self.sockets().take_open() {
            socket.end();
            self.sockets().close(&*socket);
        }
    }

    /// Called when no task is ready: tells those who wait for it if there is nothing left to do.
    pub(crate) fn notice_quiescence(&self) {
        let quiescence = self.quiescence();
        if !quiescence.is_awaited() || self.unfinished() > 0 {
            return;
        }
        let mut wakes = Wakes::default();
        let timers = self.timers().borrow().len();
        if quiescence.is_delivered(&self.sockets().open(), timers, &mut wakes) {
            quiescence.reached(&mut wakes);
        }
        wakes.run();
    }

    /// Operations and blocking calls under way that hold up the exit.
    fn unfinished(&self) -> usize {
        self.driver().active() + self.blocking().count()
    }
}

/// Seals every datagram socket of the runtime that is open now.
///
/// When it returns, every datagram that was queued before the seal has been handed to a receiver,
/// or the deadline of the policy has passed and the report counts what is left. The program goes
/// on, and can open new sockets. A socket that the kernel refuses to seal is read once: see
/// [`DrainReport::unsealed`].
///
/// What a task does with its last datagram is waited for as long as it does something: computes,
/// sends, calls `spawn_blocking`, or, if it was handed the datagram after the seal, sleeps. So is a
/// socket that nobody has received from yet, as long as any timer is pending. What waits for other
/// threads is not. A program that is never idle, because new sockets keep it busy, waits to the
/// deadline.
///
/// A task that is itself the only receiver of a socket must not wait for this, but call the
/// socket's own `drain` and then receive until `None`.
///
/// # Cancellation
///
/// The sockets are sealed at the first poll; dropping the future after that only stops waiting.
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
    Draining { policy, state: State::Start { handle: None } }
}

/// The drain of a runtime that may not be that of the thread any more, because the thread ends.
pub(crate) fn drain_of(handle: &Handle, policy: Drain) -> Draining {
    Draining { policy, state: State::Start { handle: Some(handle.clone()) } }
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
    /// Nothing was done yet. `None`: the runtime of the thread that polls.
    Start { handle: Option<Handle> },
    /// Steps 1 to 4 are done; receivers take what was queued.
    Delivering(Delivery),
}

#[derive(Debug)]
struct Delivery {
    handle: Handle,
    started: Instant,
    sockets: usize,
    sealed: Sealed,
    /// `closed_given_up` of the sockets when the delivery began.
    closed_given_up: usize,
    deadline: Sleep,
    /// The count of quiescences when the delivery began: once it has grown, all is delivered.
    quiescences: u64,
}

impl Future for Draining {
    type Output = DrainReport;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DrainReport> {
        if let State::Start { handle } = &mut self.state {
            let handle = handle.take().unwrap_or_else(Handle::current);
            self.state = State::Delivering(Delivery::start(handle, self.policy));
        }
        let State::Delivering(delivery) = &mut self.state else {
            unreachable!("the state was just set");
        };
        delivery.poll(cx).map(|outcome| delivery.report(outcome))
    }
}

impl Delivery {
    fn start(handle: Handle, policy: Drain) -> Self {
        let started = clock::now();
        let sockets = handle.sockets().open();
        let sealed = seal_sockets(&handle, &sockets, policy.quiesce);
        handle.quiescence().drain_started();
        Self {
            started,
            sockets: sockets.len(),
            closed_given_up: handle.sockets().closed_given_up(),
            sealed,
            deadline: sleep(policy.deadline),
            quiescences: handle.quiescence().count(),
            handle,
        }
    }

    /// Step 5, driven by the loop: tasks run between the polls.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DrainOutcome> {
        if self.handle.quiescence().count() > self.quiescences {
            return Poll::Ready(match self.count_undelivered() {
                _ if self.unread() > 0 => DrainOutcome::DeadlinePassed,
                0 => DrainOutcome::Complete,
                _ => DrainOutcome::Unclaimed,
            });
        }
        if self.deadline.poll_on(|| self.handle.clone(), cx).is_ready() {
            return Poll::Ready(match self.count_undelivered() {
                0 if self.handle.unfinished() == 0 && self.unread() == 0 => DrainOutcome::Complete,
                _ => DrainOutcome::DeadlinePassed,
            });
        }
        self.handle.quiescence().wait(cx.waker());
        Poll::Pending
    }

    /// How many datagrams nobody has taken, also of those that only the kernel has.
    fn count_undelivered(&self) -> usize {
        let mut wakes = Wakes::default();
        read_all(&self.handle.sockets().open(), &mut wakes);
        wakes.run();
        self.handle.sockets().undelivered()
    }

    /// How many sockets were not read to the end of their queue.
    fn unread(&self) -> usize {
        let sockets = self.handle.sockets();
        let closed = sockets.closed_given_up() - self.closed_given_up;
        self.sealed.not_reaped + sockets.given_up() + closed
    }

    fn report(&self, outcome: DrainOutcome) -> DrainReport {
        let sockets = self.handle.sockets();
        DrainReport {
            outcome,
            sockets: self.sockets,
            stats: sockets.stats(),
            undelivered: sockets.undelivered() as u64,
            unsealed: self.sealed.unsealed,
            unread: self.unread(),
            unfinished: self.handle.unfinished(),
            tasks_dropped: 0,
            operations_leaked: 0,
            completions_lost: self.handle.driver().counts().completions_lost,
            panicking: thread::panicking(),
            elapsed: clock::now() - self.started,
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.handle.quiescence().drain_ended();
    }
}

/// What steps 1 to 4 could not do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed {
    /// Sockets that the kernel refused to seal.
    pub(crate) unsealed: usize,
    /// Sockets whose receive the kernel did not give back in time. They were not read: what is
    /// received late would come after what was read.
    pub(crate) not_reaped: usize,
}

/// Steps 1 to 4 for some sockets.
///
/// To wait for senders, the receives are ended first, so that the sockets can be read meanwhile
/// without depending on the pool; what the seal then finds queued is what arrived last.
pub(crate) fn seal_sockets(
    handle: &Handle,
    sockets: &[Rc<dyn Drainable>],
    quiesce: bool,
) -> Sealed {
    let mut wakes = Wakes::default();
    let unsealed;
    if quiesce {
        cancel_and_reap(handle, sockets, &mut wakes);
        wait_for_senders(sockets, &mut wakes);
        unsealed = seal(sockets);
        wait_for_senders(sockets, &mut wakes);
    } else {
        unsealed = seal(sockets);
        cancel_and_reap(handle, sockets, &mut wakes);
    }
    read_first(sockets, &mut wakes);
    wakes.run();
    let not_reaped = sockets.iter().filter(|socket| !socket.is_reaped()).count();
    Sealed { unsealed, not_reaped }
}

/// Step 1. Returns how many sockets the kernel refused to seal.
fn seal(sockets: &[Rc<dyn Drainable>]) -> usize {
    sockets.iter().filter(|socket| socket.seal().is_err()).count()
}

/// Steps 2 and 3. Lossless because a cancel never takes a datagram: all that was received has a
/// completion of its own before the final one.
fn cancel_and_reap(handle: &Handle, sockets: &[Rc<dyn Drainable>], wakes: &mut Wakes) {
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

/// Reads every socket to its end, round-robin. Ends, because after the seal the queues only shrink.
fn read_all(sockets: &[Rc<dyn Drainable>], wakes: &mut Wakes) {
    let mut unread: Vec<&Rc<dyn Drainable>> = sockets.iter().collect();
    while !unread.is_empty() {
        unread.retain(|socket| {
            socket.read(DRAIN_READ_BATCH, Pass::Last, wakes) == ReadProgress::More
        });
    }
}

/// Waits on another thread until every CPU has finished what the network was doing on it, while
/// this one keeps reading, so that the sockets' buffers do not overflow meanwhile.
fn wait_for_senders(sockets: &[Rc<dyn Drainable>], wakes: &mut Wakes) {
    let done = Arc::new(AtomicBool::new(false));
    let helper = thread::Builder::new().spawn({
        let done = Arc::clone(&done);
        move || {
            let result = membarrier();
            done.store(true, Ordering::Release);
            result
        }
    });
    // Without a thread, or where the kernel has no such call (nohz_full), the wait is not to be
    // had.
    let Ok(helper) = helper else { return };
    while !done.load(Ordering::Acquire) {
        // No pause: whoever gets this processor instead may well be a sender.
        for socket in sockets {
            socket.read(DRAIN_READ_BATCH, Pass::Early, wakes);
        }
    }
    let _ = helper.join();
}
