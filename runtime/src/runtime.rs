//! The loop of the runtime. Read this first.
//!
//! One thread, one driver, one ready queue. [`Runtime::run_until`] is the loop. One round of it is
//! a turn:
//!
//! ```text
//!      collect completions -> timers, signals -> take what other threads sent -> run tasks
//!              ^                                                                    |
//!              |                                                                    v
//!              +------------- kernel <------------ submit and wait <------------ end turn
//! ```
//!
//! `end turn` calls the sockets that have to do something after the tasks have run: see
//! `turn_end.rs`.
//!
//! The path of a datagram: the kernel posts a completion. `collect` hands it to the sink of the
//! socket, which puts it into the inbox and leaves one waker. `run tasks` polls the receiver.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::builder::Builder;
use crate::clock;
use crate::drain::{self, Drain, DrainReport, Ready, drain_of};
use crate::driver::descriptor::eventfd;
use crate::driver::{
    Driver, DriverChoice, EnterOutcome, Pace, Reaped, Resumed, RunningDriver, StartError, Wait,
};
use crate::handle::{LocalHandle, Phase};
use crate::limits::{BUSY_TURNS_PER_LOOK, DATAGRAMS_PER_ROUND, Limits, ROUNDS_PER_TURN};
use crate::metrics::Metrics;
use crate::task::{
    Cause, JoinHandle, Permission, RemoteQueue, Root, Runnable, by_pointer_if_large, refill_budget,
};
use crate::timers::Timers;
use crate::wakes::Wakes;

/// An async runtime on one thread.
///
/// It stays on the thread that made it. Dropping it drains it, with the policy of
/// [`Builder::drain`]: see [`shutdown`](Self::shutdown).
///
/// ```
/// use ebbtide::{Drain, Runtime};
///
/// let runtime = Runtime::new()?;
/// let answer = runtime.block_on(async { 42 });
/// let report = runtime.shutdown(Drain::default());
/// assert_eq!((answer, report.undelivered), (42, 0));
/// # std::io::Result::Ok(())
/// ```
pub struct Runtime {
    handle: LocalHandle,
    /// What has to be woken; kept for its allocation. `None` while it is in use.
    wakes: Cell<Option<Box<Wakes>>>,
    turns: Cell<u64>,
    /// The policy of the drain when the runtime is dropped.
    drain: Drain,
}

impl Builder {
    /// Builds the runtime. It runs on the thread that calls this.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if a limit is out of range. The message names the setter.
    /// - Otherwise the kernel refused to start the driver. The error contains a
    ///   [`StartError`], which names the cause and the remedy. io_uring needs
    ///   Linux 6.1.
    pub fn build(self) -> io::Result<Runtime> {
        self.limits.validate()?;
        Runtime::start(self.driver, self.limits, self.drain)
    }

    /// Builds a runtime on a kernel in memory, whose queues have the sizes that this builder asks
    /// for.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if a limit is out of range.
    #[cfg(ebbtide_model)]
    #[doc(hidden)]
    pub fn build_on(self, queues: Box<dyn crate::model::ModelQueues>) -> io::Result<Runtime> {
        self.limits.validate()?;
        let eventfd = Arc::new(eventfd()?);
        let driver = Driver::on_model(queues, &self.limits, Arc::clone(&eventfd))?;
        Ok(Runtime::with_driver(driver, eventfd, self.limits, self.drain))
    }
}

impl Runtime {
    /// Makes a runtime with the default limits.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::build`].
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// Returns a builder, to change limits or choose a driver.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn start(choice: DriverChoice, limits: Limits, drain: Drain) -> io::Result<Self> {
        let eventfd = Arc::new(eventfd().map_err(StartError::explain)?);
        let driver = Driver::new(choice, &limits, Arc::clone(&eventfd))?;
        Ok(Self::with_driver(driver, eventfd, limits, drain))
    }

    fn with_driver(driver: Driver, eventfd: Arc<File>, limits: Limits, drain: Drain) -> Self {
        let remote_queue = Arc::new(RemoteQueue::new(eventfd));
        let timers = Timers::new(clock::now());
        let handle = LocalHandle::new(limits, remote_queue, timers, driver);
        Self { handle, wakes: Cell::default(), turns: Cell::new(0), drain }
    }

    /// The handle that tasks and sockets hold.
    pub fn handle(&self) -> &LocalHandle {
        &self.handle
    }

    /// Spawns a task. It runs during [`block_on`](Self::block_on), and during the drain.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        by_pointer_if_large!(future => self.handle.spawn_moved(future))
    }

    /// Runs `future` to completion on this thread, and all tasks meanwhile.
    ///
    /// # Panics
    ///
    /// - If it is called inside a runtime: spawn or await the future there instead.
    /// - If `future` panics.
    /// - If the driver fails.
    /// - In a forked child of the process that made the runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let ended = by_pointer_if_large!(future => self.block_on_until(future, Until::Ready));
        match ended {
            Ok(output) => output,
            Err(Stopped) => unreachable!("it was not to end before the future"),
        }
    }

    fn block_on_until<F: Future>(&self, future: F, until: Until) -> Result<F::Output, Stopped> {
        self.handle.assert_own();
        let entered = self.handle.enter();
        assert!(
            !entered.is_nested(),
            "block_on was called inside a runtime: await the future, or spawn it"
        );
        self.run_until(future, until)
    }

    /// The loop. `Err` if `until` allows it to stop before the future is ready.
    fn run_until<F: Future>(&self, future: F, until: Until) -> Result<F::Output, Stopped> {
        let mut future = pin!(future);
        let root = Arc::new(Root::new(Arc::clone(self.handle.tasks().remote_queue())));
        let waker = Waker::from(Arc::clone(&root));
        let running = self.handle.tasks().enter_root(&waker);
        loop {
            self.collect_completions();
            self.expire_timers();
            self.notice_signals();
            self.handle.tasks().take_woken_elsewhere();
            if root.take_wake() {
                refill_budget(self.handle.limits().operations_per_poll);
                let polling = running.poll();
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                drop(polling);
                self.handle.assert_own();
                if let Poll::Ready(output) = polled {
                    return Ok(output);
                }
            }
            self.run_tasks();
            if until == Until::ReadyOrStopped && self.handle.quiescence().is_stopped() {
                return Err(Stopped);
            }
            self.end_turn();
            self.submit_and_wait(&root);
        }
    }

    /// Collects completions: those of one enter, or more if the tasks of this thread have sent more
    /// datagrams since the last turn. A sender would otherwise outrun a receiver on the same
    /// thread.
    fn collect_completions(&self) {
        let mut entered = EnterOutcome::Done;
        self.then_wake(|wakes| {
            let sent = self.handle.take_sent();
            let mut collected = 0;
            for round in 1..=ROUNDS_PER_TURN {
                let mut driver = self.handle.driver();
                collected += driver.collect(wakes);
                let keeps_up = collected >= sent && round * DATAGRAMS_PER_ROUND >= sent;
                if keeps_up || !driver.has_work() {
                    break;
                }
                entered = driver.submit_and_wait(Wait::No);
                if entered != EnterOutcome::Done {
                    break;
                }
            }
        });
        self.check(entered);
    }

    fn expire_timers(&self) {
        if self.handle.timers().borrow().is_empty() {
            return;
        }
        self.handle.tasks().wake_because_of(Cause::Timer, || {
            self.then_wake(|wakes| {
                self.handle.timers().borrow_mut().expire(clock::now(), wakes.wakers());
            });
        });
    }

    fn notice_signals(&self) {
        if self.handle.signals().is_awaited() {
            self.then_wake(|wakes| self.handle.signals().notice(wakes.wakers()));
        }
    }

    /// Runs `body`, then wakes what it left to be woken, when nothing is borrowed.
    fn then_wake(&self, body: impl FnOnce(&mut Wakes)) {
        let mut wakes = self.wakes.take().unwrap_or_default();
        body(&mut wakes);
        wakes.run();
        self.wakes.set(Some(wakes));
    }

    /// Runs the tasks that are ready now, up to the limit of a turn. Tasks that become ready
    /// meanwhile, or yield, run in the next turn, after the kernel was entered.
    fn run_tasks(&self) {
        let ready = self.handle.tasks().ready_count();
        for _ in 0..ready.min(self.handle.limits().tasks_per_turn) {
            self.handle.tasks().run_one();
            // The task may have forked, and this may be the child.
            self.handle.assert_own();
        }
    }

    /// Calls the sockets that asked to be called at the end of the turn.
    fn end_turn(&self) {
        if !self.handle.turn_ends().is_empty() {
            self.then_wake(|wakes| self.handle.turn_ends().call(wakes));
        }
    }

    /// Enters the kernel once: to submit and receive, and to sleep if nothing is ready.
    fn submit_and_wait(&self, root: &Root<Runnable>) {
        self.turns.set(self.turns.get() + 1);
        let wait = self.wait(root);
        if wait == Wait::No {
            self.handle.driver().resume_starved(Pace::Busy);
            let entered = self.handle.driver().submit_and_wait(Wait::No);
            return self.check(entered);
        }
        let allowed = root.fall_asleep() == Permission::Sleep;
        let allowed = allowed && !drain::was_let_go(&self.handle);
        let mut driver = self.handle.driver();
        let allowed = allowed && driver.resume_starved(Pace::AboutToSleep) != Resumed::NotAll;
        let entered = driver.submit_and_wait(if allowed { wait } else { Wait::No });
        drop(driver);
        self.handle.tasks().remote_queue().awake();
        self.check(entered);
    }

    /// Panics if the driver has failed, which ends the program's future. The end of a runtime goes
    /// on without the driver, and reports what it could not read.
    #[inline]
    fn check(&self, entered: EnterOutcome) {
        if entered == EnterOutcome::Failed {
            self.fail();
        }
    }

    #[cold]
    fn fail(&self) {
        if self.handle.phase() == Phase::Running && !thread::panicking() {
            let failure = self.handle.driver().failure();
            panic!("{failure}");
        }
    }

    /// How long the thread may sleep.
    fn wait(&self, root: &Root<Runnable>) -> Wait {
        let busy = || {
            self.handle.tasks().is_ready()
                || root.is_woken()
                || self.handle.turn_ends().forbids_sleep()
        };
        if busy() || self.handle.driver().has_completions() {
            if self.turns.get().is_multiple_of(BUSY_TURNS_PER_LOOK) {
                drain::notice_quiescence(&self.handle, Ready::Always);
            }
            return Wait::No;
        }
        drain::notice_quiescence(&self.handle, Ready::None);
        if busy() {
            return Wait::No;
        }
        match self.handle.timers().borrow().next_timeout(clock::now) {
            Some(Duration::ZERO) => Wait::No,
            Some(timeout) => Wait::AtMost(timeout),
            None => Wait::Forever,
        }
    }

    /// The driver that the runtime uses. For epoll, it includes why io_uring is not used.
    ///
    /// ```
    /// let runtime = ebbtide::Runtime::new()?;
    /// println!("running on {}", runtime.driver());
    /// # std::io::Result::Ok(())
    /// ```
    pub fn driver(&self) -> RunningDriver {
        self.handle.driver().running().clone()
    }

    /// Counts of what the runtime has done since it was made.
    pub fn metrics(&self) -> Metrics {
        Metrics::new(&self.handle, self.turns.get())
    }

    /// Ends the runtime without losing a datagram.
    ///
    /// Seals every datagram socket and reads its queue to the end. Runs the tasks until they have
    /// received what was queued, at most until the deadline of `policy`. Then drops the tasks and
    /// releases all resources.
    ///
    /// When it returns, no operation is in flight, the kernel has none of the runtime's memory, and
    /// the addresses can be bound again. What the kernel does not return in time is leaked: see
    /// [`DrainReport::operations_leaked`].
    pub fn shutdown(mut self, policy: Drain) -> DrainReport {
        self.end(policy)
    }

    /// Ends the runtime at once, without running any task again. Datagrams that were queued are
    /// discarded, and counted as [`undelivered`](DrainReport::undelivered).
    pub fn stop(mut self) -> DrainReport {
        drain::stop_draining(&self.handle);
        self.end(self.drain)
    }

    /// Runs the drain and ends the runtime: see [`drain`](mod@crate::drain).
    fn end(&mut self, policy: Drain) -> DrainReport {
        self.handle.assert_own();
        let _entered = self.handle.enter();
        self.handle.advance(Phase::ShuttingDown);
        let drained = self.run_until(drain_of(&self.handle, policy), Until::Ready);
        let Ok(mut report) = drained else { unreachable!("it was not to end before the drain") };
        self.handle.advance(Phase::Ended);
        let in_hand = drain::in_hand(&self.handle);
        report.tasks_dropped = self.handle.tasks().drop_all();
        report.in_hand = in_hand.saturating_sub(drain::in_hand(&self.handle));
        report.operations_leaked = self.close();
        report.completions_lost = self.handle.driver().counts().completions_lost;
        report.close(&self.handle.sockets().stats());
        #[cfg(feature = "tracing")]
        tracing::info!(%report, "the ebbtide runtime ends");
        report
    }

    /// Step 6 of the drain, after the tasks were dropped. Returns how many operations the kernel
    /// did not return.
    fn close(&self) -> usize {
        let mut wakes = Wakes::default();
        let reaped = self.handle.driver().reap_all(&mut wakes);
        wakes.run();
        drain::end_sockets(&self.handle);
        self.handle.driver().close(&mut wakes);
        wakes.run();
        self.handle.tasks().remote_queue().close();
        self.handle.threads().close();
        match reaped {
            Reaped::All => 0,
            Reaped::Leaked(count) => {
                // The kernel may still write to the pool and to memory of operations: never free
                // them.
                mem::forget(self.handle.clone());
                count
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if self.handle.is_inherited() {
            // In a forked child. The memory of the driver is absent, its sockets and its ring are
            // the parent's, and its descriptors may be other files by now.
            mem::forget(self.handle.clone());
            return;
        }
        if !self.handle.has_ended() {
            self.end(self.drain);
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// When the loop ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// When the future is ready.
    Ready,
    /// When the future is ready, or the runtime is told to stop at once.
    ReadyOrStopped,
}

/// The runtime was told to stop at once.
struct Stopped;

/// Runs `future` on a new runtime with the default limits, drains the runtime, and returns the
/// output of `future`.
///
/// The deadline of the drain is 10 seconds. After
/// [`drain_on_terminate`](crate::signal::drain_on_terminate), a second signal drops `future`.
///
/// # Errors
///
/// - The error of [`Runtime::new`], if the runtime cannot be started.
/// - The error that `future` returns.
/// - [`DrainError`](crate::DrainError), with the report of the drain, if datagrams were lost or may
///   have been lost.
/// - `Interrupted`, if a second signal dropped `future` and the drain lost nothing.
///
/// ```
/// fn main() -> std::io::Result<()> {
///     ebbtide::run(async {
///         println!("hello");
///         Ok(())
///     })
/// }
/// ```
pub fn run<T, E: From<io::Error>>(future: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let runtime = Runtime::new()?;
    let until = Until::ReadyOrStopped;
    let ended = by_pointer_if_large!(future => runtime.block_on_until(future, until));
    let output = match ended {
        Ok(output) => Some(output?),
        Err(Stopped) => None,
    };
    let report = runtime.shutdown(Drain::default());
    match (output, report.into_result()) {
        (Some(output), Ok(_)) => Ok(output),
        (_, Err(error)) => Err(io::Error::from(error).into()),
        (None, Ok(report)) => {
            let message = format!("stopped by a second signal: {report}");
            Err(io::Error::new(io::ErrorKind::Interrupted, message).into())
        }
    }
}

/// Spawns a task onto the runtime of this thread.
///
/// The task is scheduled at once; it does not wait for the handle to be awaited. Dropping the
/// handle detaches the task. If the task panics, the handle returns a
/// [`JoinError`](crate::JoinError). The future need not be `Send`: it stays on this thread.
///
/// # Panics
///
/// Outside a runtime.
///
/// ```
/// ebbtide::run(async {
///     let task = ebbtide::spawn(async { "done" });
///     assert_eq!(task.await?, "done");
///     std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    by_pointer_if_large!(future => LocalHandle::current().spawn_moved(future))
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::driver::{DriverChoice, Interest, Readiness};
    use crate::task::{Answer, TaskId, yield_now};

    /// Fails when a datagram that was handed to a task that then ended is attributed to another
    /// task, which is then not expected back at its socket.
    #[test]
    fn what_a_task_was_handed_is_no_other_tasks() {
        let runtime = Runtime::new().unwrap();
        let tasks = runtime.handle().tasks();
        let other = runtime.block_on(async {
            let handed = Rc::clone(tasks);
            spawn(async move { handed.note_answer(Answer::Datagram) });
            let id = Rc::new(Cell::new(TaskId::NONE));
            let own = Rc::clone(&id);
            spawn(async move {
                own.set(TaskId::current());
                std::future::pending::<()>().await;
            });
            yield_now().await;
            yield_now().await;
            id.get()
        });
        let now = clock::now();
        let presence = tasks.presence(other, now, now).expect("the task has not ended");
        assert_eq!(presence.last_handed, 0);
    }

    /// Fails when an operation that only waits is still in flight after the runtime has ended. Such
    /// an operation does not hold up the exit.
    #[test]
    fn a_runtime_that_has_ended_has_nothing_in_flight() {
        for choice in [DriverChoice::Auto, DriverChoice::Epoll] {
            let runtime = Runtime::builder().driver(choice).build().unwrap();
            let handle = runtime.handle().clone();
            let (socket, _peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
            runtime.block_on(async {
                let waiting =
                    LocalHandle::current().submit(Readiness::new(socket, Interest::Readable));
                spawn(waiting);
                yield_now().await;
                yield_now().await;
            });
            assert_eq!(handle.driver().counts().in_flight, 1, "{choice:?}");
            let report = runtime.shutdown(Drain::default());
            assert_eq!((report.tasks_dropped, report.operations_leaked), (1, 0), "{report}");
            assert_eq!(handle.driver().counts().in_flight, 0, "{choice:?}");
        }
    }
}
