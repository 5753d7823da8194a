//! [`LocalHandle`]: how tasks, futures and sockets reach the runtime that they belong to.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::blocking::{BlockingCalls, Threads};
use crate::buffer::Pool;
use crate::clock;
use crate::current::{Current, EnterGuard};
use crate::drain::{OpenSockets, Quiescence};
use crate::driver::{Driver, EnterOutcome, Scratch, Wait};
use crate::limits::{Limits, REAP_LIMIT_MS, REAP_WAIT_MS};
use crate::process::Process;
use crate::signal_handler;
use crate::task::{self, Cause, JoinHandle, RemoteQueue, Runnable, Tasks, by_pointer_if_large};
use crate::timers::Timers;
use crate::turn_end::TurnEnds;
use crate::wakes::Wakes;

thread_local! {
    static CURRENT: Current<LocalHandle> = const { Current::new() };
}

/// A handle to a runtime, for use on the thread of the runtime.
///
/// A handle keeps the runtime's memory alive, not the runtime. After the runtime has ended, tasks
/// that are spawned are cancelled, and operations fail.
#[derive(Clone)]
pub struct LocalHandle {
    shared: Rc<Shared>,
}

/// The parts of a runtime. Each is borrowed for one call into it, and never while user code runs.
struct Shared {
    tasks: Rc<Tasks>,
    timers: RefCell<Timers>,
    driver: RefCell<Driver>,
    sockets: OpenSockets,
    quiescence: Quiescence,
    blocking: BlockingCalls,
    threads: Threads,
    signals: signal_handler::Waiting,
    turn_ends: TurnEnds,
    /// Datagrams that were sent since the last turn began.
    sent: Cell<u64>,
    pool: Pool,
    /// The memory that drains read into.
    scratch: RefCell<Scratch>,
    limits: Limits,
    phase: Cell<Phase>,
    /// The process that made the runtime.
    process: Process,
}

/// The phase of a runtime's life. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Phase {
    Running,
    /// The final drain runs. Tasks may still open sockets, which are sealed last.
    ShuttingDown,
    /// The last sockets of the final drain are sealed. No socket can be opened any more.
    Sealed,
    /// The tasks are being dropped, or were dropped.
    Ended,
}

impl LocalHandle {
    pub(crate) fn new(
        limits: Limits,
        remote_queue: Arc<RemoteQueue<Runnable>>,
        timers: Timers,
        driver: Driver,
    ) -> Self {
        let shared = Shared {
            tasks: Rc::new(Tasks::new(remote_queue, limits.operations_per_poll)),
            timers: RefCell::new(timers),
            pool: driver.pool().clone(),
            driver: RefCell::new(driver),
            sockets: OpenSockets::default(),
            quiescence: Quiescence::default(),
            scratch: RefCell::default(),
            blocking: BlockingCalls::default(),
            threads: Threads::default(),
            signals: signal_handler::Waiting::default(),
            turn_ends: TurnEnds::default(),
            sent: Cell::new(0),
            limits,
            phase: Cell::new(Phase::Running),
            process: Process::current(),
        };
        Self { shared: Rc::new(shared) }
    }

    /// Returns a handle to the runtime of this thread.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    #[must_use]
    pub fn current() -> Self {
        Self::try_current().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns a handle to the runtime of this thread.
    ///
    /// # Errors
    ///
    /// - Outside a runtime; the message says how to enter one.
    /// - In a forked child, inside the runtime of its parent.
    pub fn try_current() -> io::Result<Self> {
        let current = CURRENT.with(Current::get);
        let current = current.ok_or_else(|| {
            io::Error::other(
                "there is no ebbtide runtime on this thread: \
                 call this inside ebbtide::run or Runtime::block_on",
            )
        })?;
        current.check_process()?;
        Ok(current)
    }

    /// Whether the runtime was made before this process was forked. The memory that it shares with
    /// the kernel is absent then, and what is done to its descriptors affects the parent.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        self.shared.process != Process::current()
    }

    /// Returns an error if the runtime is inherited.
    #[inline]
    pub(crate) fn check_process(&self) -> io::Result<()> {
        if self.is_inherited() { Err(inherited()) } else { Ok(()) }
    }

    /// Panics if the runtime is inherited.
    ///
    /// # Panics
    ///
    /// If the runtime was made before this process was forked.
    #[inline]
    pub(crate) fn assert_own(&self) {
        assert!(!self.is_inherited(), "{}", inherited());
    }

    /// Whether both handles belong to the same runtime.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.shared, &other.shared)
    }

    /// Spawns a task onto this runtime. See [`spawn`](crate::spawn).
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        by_pointer_if_large!(future => self.spawn_moved(future))
    }

    /// [`spawn`](Self::spawn), after the caller has boxed a large future.
    pub(crate) fn spawn_moved<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.assert_own();
        self.tasks().spawn(future)
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    pub(crate) fn scratch(&self) -> RefMut<'_, Scratch> {
        self.shared.scratch.borrow_mut()
    }

    /// Borrows the driver.
    ///
    /// # Panics
    ///
    /// In a forked child, which does not have the driver's memory.
    #[inline]
    pub(crate) fn driver(&self) -> RefMut<'_, Driver> {
        self.assert_own();
        self.shared.driver.borrow_mut()
    }

    /// Collects completions until `done`, until a time limit, or until the driver fails. For
    /// operations that were cancelled, and so will complete soon.
    pub(crate) fn collect_until(&self, done: impl Fn() -> bool, wakes: &mut Wakes) {
        let deadline = clock::now() + Duration::from_millis(REAP_LIMIT_MS);
        while !done() && clock::now() < deadline {
            let mut driver = self.driver();
            let entered = driver.submit_and_wait(Wait::AtMost(Duration::from_millis(REAP_WAIT_MS)));
            if driver.collect(wakes) == 0 && entered == EnterOutcome::Failed {
                break;
            }
        }
    }

    /// Wakes tasks because of completions. A task may be running; the wakes are not attributed to
    /// it.
    pub(crate) fn wake_from_outside(&self, mut wakes: Wakes) {
        self.tasks().wake_because_of(Cause::Outside, || wakes.run());
    }

    pub(crate) fn timers(&self) -> &RefCell<Timers> {
        &self.shared.timers
    }

    pub(crate) fn tasks(&self) -> &Rc<Tasks> {
        &self.shared.tasks
    }

    pub(crate) fn sockets(&self) -> &OpenSockets {
        &self.shared.sockets
    }

    pub(crate) fn quiescence(&self) -> &Quiescence {
        &self.shared.quiescence
    }

    pub(crate) fn blocking(&self) -> &BlockingCalls {
        &self.shared.blocking
    }

    /// The threads for blocking calls.
    pub(crate) fn threads(&self) -> &Threads {
        &self.shared.threads
    }

    pub(crate) fn signals(&self) -> &signal_handler::Waiting {
        &self.shared.signals
    }

    #[inline]
    pub(crate) fn note_sent(&self, datagrams: u64) {
        self.shared.sent.set(self.shared.sent.get().saturating_add(datagrams));
    }

    /// How many datagrams the sockets have sent since the last call.
    pub(crate) fn take_sent(&self) -> u64 {
        self.shared.sent.take()
    }

    pub(crate) fn turn_ends(&self) -> &TurnEnds {
        &self.shared.turn_ends
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub(crate) fn phase(&self) -> Phase {
        self.shared.phase.get()
    }

    pub(crate) fn advance(&self, phase: Phase) {
        assert!(self.phase() <= phase, "a runtime never goes back");
        self.shared.phase.set(phase);
    }

    /// Whether the tasks are being dropped, or are gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.phase() == Phase::Ended
    }

    /// Makes this the runtime of the thread, until the guard is dropped.
    pub(crate) fn enter(&self) -> RuntimeGuard {
        RuntimeGuard {
            handle: Current::enter(&CURRENT, self.clone()),
            _budget: task::set_budget_aside(),
            _tasks: self.tasks().enter(),
        }
    }
}

impl fmt::Debug for LocalHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalHandle").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

/// The error for a runtime that was made before this process was forked.
#[cold]
fn inherited() -> io::Error {
    io::Error::other(
        "this ebbtide runtime was made before the process forked, and only the parent can use it: \
         make a runtime in the child",
    )
}

/// Undoes [`LocalHandle::enter`] when it is dropped.
pub(crate) struct RuntimeGuard {
    handle: EnterGuard<LocalHandle>,
    _budget: task::OuterBudget,
    _tasks: EnterGuard<Rc<Tasks>>,
}

impl RuntimeGuard {
    /// Whether the thread was already in a runtime of this process.
    pub(crate) fn is_nested(&self) -> bool {
        self.handle.outer().is_some_and(|outer| !outer.is_inherited())
    }
}
