//! The drain: how a runtime ends without losing a datagram.
//!
//! ```text
//! 1 seal      every datagram socket: from here on its queue only shrinks
//! 2 cancel    every receive in flight
//! 3 reap      to the final completion of each: what was received is in the inboxes, in order
//! 4 read      each socket, without waiting, until EAGAIN, round-robin
//! 5 deliver   run tasks until the inboxes are empty and nothing is left to do, or the deadline
//! 6 end       drop the tasks; cancel and reap whatever is left; close sockets, pool and ring
//! ```
//!
//! [`empty_sockets`] is steps 1 to 4, takes no await and runs no user code; [`drain`] adds step 5;
//! [`Runtime::shutdown`](crate::Runtime::shutdown) adds step 6. The order of 3 and 4 keeps the
//! queue's order, and only after 1 does the end of 4 mean anything.
//!
//! The runtime knows no socket: what is drained is a [`Drainable`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::iter::Sum;
use std::ops::AddAssign;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::driver::{Wait, Wakes};
use crate::handle::Handle;
use crate::limits::{DRAIN_READ_BATCH, REAP_LIMIT_MS};
use crate::membarrier;
use crate::time::{Sleep, sleep_until};

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
    /// it, not what it promises. Off by default: such datagrams count as refused.
    pub fn quiesce(mut self, quiesce: bool) -> Self {
        self.quiesce = quiesce;
        self
    }
}

/// A socket, as the drain sees it.
pub trait Drainable: 'static {
    /// Step 1. Makes the kernel queue nothing more on it.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses; the socket is then read up to a bound instead of to its end.
    fn seal(&self) -> io::Result<()>;

    /// Step 2. Asks for the end of its receive.
    fn cancel(&self);

    /// Step 3. Whether the final completion of its receive was collected.
    fn is_reaped(&self) -> bool;

    /// Step 4. Reads up to `limit` datagrams into its inbox.
    fn read(&self, limit: usize, wakes: &mut Wakes) -> ReadProgress;

    /// Step 5. How many datagrams wait in its inbox.
    fn undelivered(&self) -> usize;

    /// Step 6. Throws away what is in its inbox, and gives its address back. Nothing of it is in
    /// flight any more.
    fn end(&self);

    /// What has happened on it.
    fn stats(&self) -> SocketStats;
}

/// How far the reading of a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadProgress {
    /// There may be more.
    More,
    /// The queue is empty, and stays so.
    Empty,
}

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
    /// The deadline passed first.
    DeadlinePassed,
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
    /// Sockets that the kernel refused to seal; they were read up to a bound.
    pub unsealed: usize,
    /// Calls of `spawn_blocking` and operations that had not ended at the deadline.
    pub unfinished: usize,
    /// Tasks that were dropped at the end. 0 where the runtime goes on.
    pub tasks_dropped: usize,
    /// Completions that the kernel lost for want of memory (`-EBADR`). Datagrams may be among them:
    /// this is the one loss that Ebbtide can only report.
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
        };
        let stats = &self.stats;
        write!(
            f,
            "{outcome} {} sockets in {:.1?}: received {}, delivered {}, undelivered {}, \
             discarded {}; truncated {}, dropped by the kernel {}, refused after the seal {}",
            self.sockets,
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
            (self.unsealed as u64, "sockets not sealed"),
            (self.unfinished as u64, "operations unfinished"),
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

/// What the runtime knows of its sockets.
#[derive(Default)]
pub(crate) struct Ledger {
    open: RefCell<Slab<Rc<dyn Drainable>>>,
    /// The counts of the sockets that were closed.
    closed: RefCell<SocketStats>,
    /// Who waits for the runtime to be quiescent.
    waiters: RefCell<Vec<Waker>>,
    /// How often it was found quiescent while somebody waited for it.
    quiescences: Cell<u64>,
    /// Calls of `spawn_blocking` under way.
    blocking: Cell<usize>,
}

/// Names a socket in the ledger.
#[derive(Clone, Copy, Debug)]
pub struct DrainKey(usize);

impl Ledger {
    /// Enters a socket, so that the drain finds it.
    pub(crate) fn enter(&self, socket: Rc<dyn Drainable>) -> DrainKey {
        DrainKey(self.open.borrow_mut().insert(socket))
    }

    /// Takes a closed socket out and keeps its counts.
    pub(crate) fn leave(&self, key: DrainKey) {
        let socket = self.open.borrow_mut().try_remove(key.0);
        if let Some(socket) = socket {
            *self.closed.borrow_mut() += socket.stats();
        }
    }

    fn open(&self) -> Vec<Rc<dyn Drainable>> {
        self.open.borrow().iter().map(|(_, socket)| Rc::clone(socket)).collect()
    }

    /// Wakes `waker` when the runtime is quiescent.
    fn wait(&self, waker: &Waker) {
        let known = self.waiters.borrow().iter().any(|waiting| waiting.will_wake(waker));
        if !known {
            // Cloned before the borrow: wakers are foreign code.
            let waker = waker.clone();
            self.waiters.borrow_mut().push(waker);
        }
    }

    fn stats(&self) -> SocketStats {
        let mut stats = *self.closed.borrow();
        stats += self.open().iter().map(|socket| socket.stats()).sum();
        stats
    }

    fn undelivered(&self) -> usize {
        self.open.borrow().iter().map(|(_, socket)| socket.undelivered()).sum()
    }

    pub(crate) fn blocking_started(&self) {
        self.blocking.set(self.blocking.get() + 1);
    }

    pub(crate) fn blocking_ended(&self) {
        self.blocking.set(self.blocking.get() - 1);
    }
}

impl Handle {
    /// Step 6 for the sockets that outlive their tasks, because the program holds them elsewhere.
    pub(crate) fn end_sockets(&self) {
        for socket in self.ledger().open() {
            socket.end();
        }
    }

    /// Called when no task is ready: tells those who wait for it if there is nothing left to do.
    pub(crate) fn notice_quiescence(&self, wakes: &mut Wakes) {
        let ledger = self.ledger();
        if ledger.waiters.borrow().is_empty() || self.unfinished() > 0 || ledger.undelivered() > 0 {
            return;
        }
        ledger.quiescences.set(ledger.quiescences.get() + 1);
        wakes.wakers().append(&mut ledger.waiters.borrow_mut());
    }

    /// Operations and blocking calls under way that hold up the exit.
    fn unfinished(&self) -> usize {
        self.driver().active() + self.ledger().blocking.get()
    }
}

/// Seals, empties and delivers every datagram socket of the runtime that is open now.
///
/// When it returns, every datagram that was queued before the seal has been handed to a receiver,
/// or the deadline of the policy has passed and the report counts what is left. Receivers see
/// `None` after their last datagram. The program goes on, and can open new sockets.
///
/// A task that is itself the only receiver of a socket must not wait for this, but call the
/// socket's own `drain` and then receive until `None`.
///
/// # Cancellation
///
/// The sockets are sealed and emptied at the first poll; dropping the future after that only stops
/// waiting.
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
    Draining { policy, state: State::Start }
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
    /// Nothing was done yet.
    Start,
    /// Steps 1 to 4 are done; receivers take what is in the inboxes.
    Delivering(Delivery),
}

#[derive(Debug)]
struct Delivery {
    handle: Handle,
    started: Instant,
    sockets: usize,
    unsealed: usize,
    deadline: Pin<Box<Sleep>>,
    /// `quiescences` of the ledger when the delivery began: once it has grown, all is delivered.
    quiescences: u64,
}

impl Future for Draining {
    type Output = DrainReport;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DrainReport> {
        if let State::Start = self.state {
            self.state = State::Delivering(Delivery::start(Handle::current(), self.policy));
        }
        let State::Delivering(delivery) = &mut self.state else {
            unreachable!("the state was just set");
        };
        delivery.poll(cx).map(|outcome| delivery.report(outcome))
    }
}

impl Delivery {
    fn start(handle: Handle, policy: Drain) -> Self {
        let started = Instant::now();
        let sockets = handle.ledger().open();
        let unsealed = empty_sockets(&handle, &sockets, policy.quiesce);
        Self {
            started,
            sockets: sockets.len(),
            unsealed,
            deadline: Box::pin(sleep_until(started + policy.deadline)),
            quiescences: handle.ledger().quiescences.get(),
            handle,
        }
    }

    /// Step 5, driven by the loop: tasks run between the polls.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DrainOutcome> {
        if self.handle.ledger().quiescences.get() > self.quiescences {
            return Poll::Ready(DrainOutcome::Complete);
        }
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(match self.handle.ledger().undelivered() {
                0 if self.handle.unfinished() == 0 => DrainOutcome::Complete,
                _ => DrainOutcome::DeadlinePassed,
            });
        }
        self.handle.ledger().wait(cx.waker());
        Poll::Pending
    }

    fn report(&self, outcome: DrainOutcome) -> DrainReport {
        let ledger = self.handle.ledger();
        DrainReport {
            outcome,
            sockets: self.sockets,
            stats: ledger.stats(),
            undelivered: ledger.undelivered() as u64,
            unsealed: self.unsealed,
            unfinished: self.handle.unfinished(),
            tasks_dropped: 0,
            completions_lost: self.handle.driver().counts().completions_lost,
            panicking: thread::panicking(),
            elapsed: self.started.elapsed(),
        }
    }
}

/// Steps 1 to 4 for some sockets. Returns how many could not be sealed.
pub(crate) fn empty_sockets(
    handle: &Handle,
    sockets: &[Rc<dyn Drainable>],
    quiesce: bool,
) -> usize {
    let mut wakes = Wakes::default();
    if quiesce {
        wait_for_senders(handle, &mut wakes);
    }
    let unsealed = sockets.iter().filter(|socket| socket.seal().is_err()).count();
    if quiesce {
        wait_for_senders(handle, &mut wakes);
    }
    for socket in sockets {
        socket.cancel();
    }
    reap(handle, sockets, &mut wakes);
    read(sockets, &mut wakes);
    wakes.run();
    unsealed
}

/// Step 3. Lossless because a cancel never takes a datagram: all that was received has a completion
/// of its own before the final one.
fn reap(handle: &Handle, sockets: &[Rc<dyn Drainable>], wakes: &mut Wakes) {
    let deadline = Instant::now() + Duration::from_millis(REAP_LIMIT_MS);
    while !sockets.iter().all(|socket| socket.is_reaped()) && Instant::now() < deadline {
        let mut driver = handle.driver();
        driver.submit_and_wait(Wait::AtMost(Duration::from_millis(100)));
        driver.collect(wakes);
    }
}

/// Step 4. Ends, because after the seal the queues only shrink.
fn read(sockets: &[Rc<dyn Drainable>], wakes: &mut Wakes) {
    let mut unread: Vec<&Rc<dyn Drainable>> = sockets.iter().collect();
    while !unread.is_empty() {
        unread.retain(|socket| socket.read(DRAIN_READ_BATCH, wakes) == ReadProgress::More);
    }
}

/// Waits on another thread until every CPU has finished what the network was doing on it, while
/// this one keeps receiving, so that the sockets' buffers do not overflow meanwhile.
fn wait_for_senders(handle: &Handle, wakes: &mut Wakes) {
    let done = Arc::new(AtomicBool::new(false));
    let helper = thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let result = membarrier::global();
            done.store(true, Ordering::Release);
            result
        }
    });
    while !done.load(Ordering::Acquire) {
        let mut driver = handle.driver();
        driver.submit_and_wait(Wait::AtMost(Duration::from_millis(1)));
        driver.collect(wakes);
    }
    // It fails only where the kernel has no such call (nohz_full); then the wait is not to be had.
    let _ = helper.join();
}
