//! [`Tasks`]: the ready queue and the living tasks; how a task is spawned, polled and dropped.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use async_task::Builder;
use pin_project_lite::pin_project;
use slab::Slab;

use super::activity::{Activity, Answer, Cause};
use super::budget::refill_budget;
use super::current::{Polling, TaskId};
use super::join::{JoinError, JoinHandle};
use super::remote_queue::RemoteQueue;
use crate::clock;
use crate::current::{Current, EnterGuard};
use crate::panics::{catch, contain};

thread_local! {
    /// The tasks of the runtime that runs on this thread. Wakes on this thread need no lock.
    static CURRENT: Current<Rc<Tasks>> = const { Current::new() };
}

/// A task that is to be polled.
pub(crate) type Runnable = async_task::Runnable<Home>;

/// The queue for wakes on other threads. It is the metadata of the task, so that the schedule
/// function captures nothing: otherwise async-task would count the task up and down twice for each
/// wake, to keep what the function captures.
pub(crate) struct Home(Arc<RemoteQueue<Runnable>>);

/// The tasks of a runtime.
pub(crate) struct Tasks {
    ready: RefCell<VecDeque<Ready>>,
    living: RefCell<Slab<Entry>>,
    /// The future of `block_on`, while it runs.
    root: Cell<Option<(TaskId, Activity)>>,
    /// The waker of the future of `block_on`.
    root_waker: RefCell<Option<Waker>>,
    /// How often sockets reported something to the future of `block_on`. Outlives that future.
    root_told: RefCell<Rc<Cell<u64>>>,
    remote_queue: Arc<RemoteQueue<Runnable>>,
    operations_per_poll: u32,
    /// True after `drop_all` has begun: what is spawned from then on never runs.
    closed: Cell<bool>,
    /// Why tasks become ready that are woken now.
    cause: Cell<Cause>,
    /// Why the task became ready that is polled next.
    polled_by: Cell<Cause>,
    /// What a socket has reported last to the task that is being polled.
    answer: Cell<Option<Answer>>,
    /// Whether the future of `block_on` is being polled.
    is_polling_root: Cell<bool>,
    /// How many datagrams were handed to receivers.
    handed_out: Cell<u32>,
    /// The number of the last datagram that the task being polled was handed.
    last_handed: Cell<Option<u32>>,
    /// How often a task with work went on because of something outside, or by itself.
    progress: Cell<u64>,
    /// How many drains are under way.
    drains: Cell<usize>,
}

/// A task that is to be polled.
struct Ready {
    runnable: Runnable,
    cause: Cause,
}

/// What the living tasks do, except those that wait for a drain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Survey {
    /// Tasks that wait for sleeps.
    pub(crate) asleep: usize,
    /// Tasks that are in the middle of their work.
    pub(crate) at_work: usize,
    /// Tasks that may be in the middle of their work.
    pub(crate) maybe_at_work: usize,
    /// Tasks that have had work, and are neither known to be done with it nor at work.
    pub(crate) unsure: usize,
    /// Tasks that wait for a time, and were not polled since the last datagram was handed out.
    pub(crate) behind: usize,
}

/// What is known of a living task.
struct Entry {
    /// To abort the task, and to drop it at the end. `None` until a poll has returned `Pending`:
    /// until then it is in the ready queue, or is being polled.
    waker: Option<Waker>,
    /// True after `abort`: the future is dropped instead of polled.
    aborted: bool,
    id: TaskId,
    activity: Activity,
    /// `Some` if the future of `block_on` spawned the task.
    setup: Option<Setup>,
}

/// For a task that the future of `block_on` spawned. It may be a part of the program that is set
/// up, even if that future had been handed a datagram. It counts as work only if that future has
/// asked for another datagram since.
struct Setup {
    root_told: Rc<Cell<u64>>,
    /// How often sockets had reported something to the future of `block_on`.
    before: u64,
}

impl Entry {
    fn is_at_work(&self, start: Instant) -> bool {
        let is_setup = |setup: &Setup| setup.root_told.get() == setup.before;
        self.activity.is_at_work(self.setup.as_ref().is_some_and(is_setup), start)
    }
}

impl Tasks {
    pub(crate) fn new(remote_queue: Arc<RemoteQueue<Runnable>>, operations_per_poll: u32) -> Self {
        Self {
            ready: RefCell::default(),
            living: RefCell::default(),
            root: Cell::new(None),
            root_waker: RefCell::default(),
            root_told: RefCell::default(),
            remote_queue,
            operations_per_poll,
            closed: Cell::new(false),
            cause: Cell::default(),
            polled_by: Cell::default(),
            answer: Cell::default(),
            is_polling_root: Cell::default(),
            handed_out: Cell::default(),
            last_handed: Cell::default(),
            progress: Cell::default(),
            drains: Cell::default(),
        }
    }

    /// Makes these the tasks of this thread until the guard is dropped.
    pub(crate) fn enter(self: &Rc<Self>) -> EnterGuard<Rc<Self>> {
        Current::enter(&CURRENT, Rc::clone(self))
    }

    pub(crate) fn remote_queue(&self) -> &Arc<RemoteQueue<Runnable>> {
        &self.remote_queue
    }

    /// How many tasks have not ended.
    pub(crate) fn living(&self) -> usize {
        self.living.borrow().len()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready_count() > 0
    }

    pub(crate) fn ready_count(&self) -> usize {
        self.ready.borrow().len()
    }

    /// Spawns a task.
    pub(crate) fn spawn<F>(self: &Rc<Self>, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let key = {
            let mut living = self.living.borrow_mut();
            let place = living.vacant_entry();
            let key = place.key();
            let (id, activity) = (
                TaskId::new(key),
                Activity::spawned(self.cause.get(), self.handed_out.get(), clock::now),
            );
            let setup = self.is_root(TaskId::current()).then(|| {
                let root_told = Rc::clone(&self.root_told.borrow());
                Setup { before: root_told.get(), root_told }
            });
            place.insert(Entry { waker: None, aborted: false, id, activity, setup });
            key
        };
        let living = Living { tasks: Rc::clone(self), key };
        let home = Home(Arc::clone(&self.remote_queue));
        let guarded = Guarded { future: Some(future), living };
        let (runnable, task) = Builder::new().metadata(home).spawn_local(|_| guarded, schedule);
        if self.closed.get() {
            // Nobody would ever poll it. Its handle reports that it was cancelled.
            drop(runnable);
        } else {
            self.push(runnable, Cause::Outside);
        }
        JoinHandle::new(task.fallible(), Rc::clone(self), key)
    }

    /// Puts a task at the end of the ready queue.
    fn push(&self, runnable: Runnable, cause: Cause) {
        self.ready.borrow_mut().push_back(Ready { runnable, cause });
    }

    /// Moves what other threads have woken into the ready queue.
    pub(crate) fn take_woken_elsewhere(&self) {
        while let Some(runnable) = self.remote_queue.pop() {
            self.push(runnable, Cause::Outside);
        }
    }

    /// Polls the task that has been ready longest, if any is.
    pub(crate) fn run_one(&self) {
        let ready = self.ready.borrow_mut().pop_front();
        if let Some(Ready { runnable, cause }) = ready {
            self.polled_by.set(cause);
            runnable.run();
        }
    }

    /// Calls `wake`, which wakes or spawns tasks because of `cause`.
    pub(crate) fn wake_because_of(&self, cause: Cause, wake: impl FnOnce()) {
        let outer = self.cause.replace(cause);
        wake();
        self.cause.set(outer);
    }

    /// Has the future of a living task dropped instead of polled the next time.
    pub(super) fn abort(&self, key: usize) {
        let waker = self.living.borrow_mut().get_mut(key).and_then(|entry| {
            entry.aborted = true;
            entry.waker.clone()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Called before a task is polled. Returns whether it was aborted, and its id.
    fn before_poll(&self, key: usize) -> (bool, TaskId) {
        let mut living = self.living.borrow_mut();
        let entry = &mut living[key];
        let polled_by = self.polled_by.get();
        let is_draining = self.drains.get() > 0;
        let cause = entry.activity.polled(polled_by, self.handed_out.get(), is_draining);
        let goes_on = match polled_by {
            Cause::Outside => entry.activity.works_on(),
            Cause::Timer => entry.activity.is_finishing(),
            _ => false,
        };
        if goes_on {
            self.progress.set(self.progress.get() + 1);
        }
        self.begin_poll(cause);
        (entry.aborted, entry.id)
    }

    /// Begins the poll of a task, which wakes others because of `cause`. No socket has reported
    /// anything to it yet.
    fn begin_poll(&self, cause: Cause) {
        self.cause.set(cause);
        self.answer.set(None);
        self.last_handed.set(None);
    }

    /// Records what sockets have reported to the task that was polled.
    fn note_told(&self, activity: &mut Activity) {
        if let Some(answer) = self.answer.get() {
            activity.answered(answer, clock::now);
        }
        if let Some(last) = self.last_handed.get() {
            activity.handed(last);
        }
    }

    /// A task ends. The task that waits for its result takes over its work.
    fn ends(&self, key: usize) {
        let (has_work, awaited) = {
            let activity = &self.living.borrow()[key].activity;
            (activity.has_certain_work() || self.answer.get().is_some(), activity.awaited())
        };
        if has_work && let Some((task, poll)) = awaited {
            self.with_activity(task, |activity| {
                if activity.polls() == poll {
                    activity.joins_work();
                }
            });
        }
    }

    /// A task was polled. A task that has woken itself has no other task's work.
    fn after_poll(&self) {
        self.cause.set(Cause::Outside);
    }

    /// A poll has returned `Pending`, and the task waits for `waker`, which is its own. Returns
    /// whether it was aborted meanwhile. It does not wait then: nobody else might wake it.
    fn waits(&self, key: usize, waker: &Waker) -> bool {
        let entry = &mut self.living.borrow_mut()[key];
        if entry.waker.is_none() {
            // A waker of `async-task`: no user code runs here.
            entry.waker = Some(waker.clone());
        }
        self.note_told(&mut entry.activity);
        entry.activity.waits();
        entry.aborted
    }

    /// Drops the futures of all tasks, also of those that destructors of others spawn. Returns how
    /// many.
    pub(crate) fn drop_all(&self) -> usize {
        self.closed.set(true);
        let mut dropped = 0;
        loop {
            if self.living() == 0 {
                return dropped;
            }
            // A waker makes its task ready, wherever it waits, and a ready task can be dropped.
            let wakers: Vec<Waker> =
                self.living.borrow().iter().filter_map(|(_, entry)| entry.waker.clone()).collect();
            for waker in wakers {
                waker.wake();
            }
            self.take_woken_elsewhere();
            loop {
                let ready = self.ready.borrow_mut().pop_front();
                let Some(ready) = ready else { break };
                drop(ready);
                dropped += 1;
            }
            // A task that still lives is being pushed into the remote queue by another thread.
            std::thread::yield_now();
        }
    }
}

/// What drains ask for.
impl Tasks {
    /// The future of `block_on` begins. It ends when the guard is dropped.
    pub(crate) fn enter_root(self: &Rc<Self>, waker: &Waker) -> RunningRoot {
        let id = TaskId::root();
        let outer_waker = self.root_waker.replace(Some(waker.clone()));
        let activity = Activity::spawned(Cause::Outside, self.handed_out.get(), clock::now);
        let outer = self.root.replace(Some((id, activity)));
        self.root_told.take();
        RunningRoot { tasks: Rc::clone(self), id, outer, outer_waker }
    }

    fn is_root(&self, task: TaskId) -> bool {
        self.root.get().is_some_and(|(root, _)| root == task)
    }

    /// Whether a waker is that of the task that is being polled, not a third party's.
    pub(super) fn is_own(&self, waker: &Waker) -> bool {
        let is_root = || self.root_waker.borrow().as_ref().is_some_and(|own| own.will_wake(waker));
        let Some(key) = TaskId::current().key() else { return is_root() };
        let living = self.living.borrow();
        let own = living.get(key).and_then(|entry| entry.waker.as_ref());
        own.is_some_and(|own| own.will_wake(waker))
    }

    /// Whether a task has not ended. A future that is not polled by a runtime counts as one that
    /// never ends.
    pub(crate) fn is_alive(&self, task: TaskId) -> bool {
        task == TaskId::NONE || self.with_activity(task, |_| ()).is_some()
    }

    fn with_activity<T>(&self, task: TaskId, f: impl FnOnce(&mut Activity) -> T) -> Option<T> {
        if let Some(key) = task.key() {
            let mut living = self.living.borrow_mut();
            let entry = living.get_mut(key).filter(|entry| entry.id == task)?;
            return Some(f(&mut entry.activity));
        }
        let (root, mut activity) = self.root.get().filter(|(root, _)| *root == task)?;
        let answer = f(&mut activity);
        self.root.set(Some((root, activity)));
        Some(answer)
    }

    /// Records what a socket has reported to the task that is being polled. Returns how many
    /// datagrams were handed out so far.
    #[inline]
    pub(crate) fn note_answer(&self, answer: Answer) -> u32 {
        self.answer.set(Some(answer));
        if self.is_polling_root.get() {
            let root_told = self.root_told.borrow();
            root_told.set(root_told.get() + 1);
        }
        if answer == Answer::Datagram {
            self.handed_out.set(self.handed_out.get().wrapping_add(1));
            self.last_handed.set(Some(self.handed_out.get()));
        }
        if answer != Answer::Nothing {
            self.cause.set(Cause::WorkingTask);
        }
        self.handed_out.get()
    }

    /// A sleep of the task that is being polled begins to wait.
    pub(crate) fn sleep_begins(&self, until: Instant) -> TaskId {
        let task = TaskId::current();
        self.with_activity(task, |activity| activity.sleep_begins(until));
        task
    }

    /// A sleep that `task` began is over, or was dropped.
    pub(crate) fn sleep_ends(&self, task: TaskId) {
        self.with_activity(task, Activity::sleep_ends);
    }

    /// An interval of the task that is being polled begins to wait for its tick.
    pub(crate) fn tick_begins(&self) -> TaskId {
        let task = TaskId::current();
        self.with_activity(task, Activity::tick_begins);
        task
    }

    /// A tick that `task` waited for has come, or its interval was dropped.
    pub(crate) fn tick_ends(&self, task: TaskId) {
        self.with_activity(task, Activity::tick_ends);
    }

    /// The task that is being polled waits for the result of the living task `key`.
    pub(super) fn awaits(&self, key: usize) {
        let task = TaskId::current();
        let poll = self.with_activity(task, |activity| activity.polls());
        if let (Some(poll), Some(entry)) = (poll, self.living.borrow_mut().get_mut(key)) {
            entry.activity.awaited_by(task, poll);
        }
    }

    /// Adds to `tasks` those that await one of them, directly or through others.
    pub(crate) fn add_who_awaits(&self, tasks: &mut Vec<TaskId>) {
        let mut seen = 0;
        while let Some(task) = tasks.get(seen).copied() {
            seen += 1;
            let awaited = self.with_activity(task, |activity| activity.awaited()).flatten();
            let Some((awaits, poll)) = awaited else { continue };
            let is_current = self.with_activity(awaits, |activity| activity.polls() == poll);
            if is_current == Some(true) && !tasks.contains(&awaits) {
                tasks.push(awaits);
            }
        }
    }

    /// How often tasks with work went on because of something outside.
    pub(crate) fn progress(&self) -> u64 {
        self.progress.get()
    }

    /// A drain begins.
    pub(crate) fn drain_begins(&self) {
        self.drains.set(self.drains.get() + 1);
    }

    /// A drain is over.
    pub(crate) fn drain_ends(&self) {
        self.drains.set(self.drains.get() - 1);
    }

    /// What the tasks do, except those of `except`, for a drain that began at `start`.
    pub(crate) fn survey(&self, except: &[TaskId], start: Instant) -> Survey {
        let living = self.living.borrow();
        let tasks =
            living.iter().map(|(_, entry)| (entry.id, entry.activity, entry.is_at_work(start)));
        let root =
            self.root.get().map(|(id, activity)| (id, activity, activity.is_at_work(false, start)));
        let mut survey = Survey::default();
        for (id, activity, is_at_work) in tasks.chain(root) {
            if except.contains(&id) {
                continue;
            }
            survey.asleep += usize::from(activity.is_asleep());
            survey.at_work += usize::from(is_at_work);
            survey.behind += usize::from(activity.is_behind(self.handed_out.get()));
            survey.unsure += usize::from(activity.has_work() && !is_at_work);
            survey.maybe_at_work += usize::from(activity.may_be_at_work());
        }
        survey
    }

    /// What `task` does, for a drain that began at `start` and ends at `end`. `None` if the task
    /// has ended.
    pub(crate) fn presence(
        &self,
        task: TaskId,
        start: Instant,
        end: Instant,
    ) -> Option<ReceiverTask> {
        if task == TaskId::NONE {
            // A future that is not polled by a runtime counts as one that never ends.
            return Some(ReceiverTask::default());
        }
        self.with_activity(task, |activity| ReceiverTask {
            is_asleep: activity.is_asleep(),
            does_other_things: activity.does_other_things(start, end),
            has_stopped_receiving: activity.has_stopped_receiving(),
            last_handed: activity.last_handed(),
        })
    }
}

/// What a task does that has received from a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReceiverTask {
    /// It waits for a sleep.
    pub(crate) is_asleep: bool,
    /// It has done other things since it was handed a datagram before the drain.
    pub(crate) does_other_things: bool,
    /// It has done so many other things that it will not come back. This is for a datagram of the
    /// drain itself, or if more datagrams wait for it.
    pub(crate) has_stopped_receiving: bool,
    /// The number of the last datagram that it was handed, counting all that were handed out.
    pub(crate) last_handed: u32,
}

/// While it exists, the future of `block_on` runs.
pub(crate) struct RunningRoot {
    tasks: Rc<Tasks>,
    id: TaskId,
    /// The future of the outer loop, within which this one runs.
    outer: Option<(TaskId, Activity)>,
    outer_waker: Option<Waker>,
}

impl RunningRoot {
    /// Makes it the future that this thread polls, until the guard is dropped.
    pub(crate) fn poll(&self) -> RootPoll<'_> {
        let (id, mut activity) = self.tasks.root.get().expect("it is entered");
        // What has woken it is not known.
        let is_draining = self.tasks.drains.get() > 0;
        let cause = activity.polled(Cause::Outside, self.tasks.handed_out.get(), is_draining);
        self.tasks.begin_poll(cause);
        self.tasks.is_polling_root.set(true);
        self.tasks.root.set(Some((id, activity)));
        RootPoll { tasks: &self.tasks, _polling: self.id.poll() }
    }
}

impl Drop for RunningRoot {
    fn drop(&mut self) {
        self.tasks.root.set(self.outer.take());
        self.tasks.root_waker.replace(self.outer_waker.take());
    }
}

/// Undoes [`RunningRoot::poll`] when it is dropped.
pub(crate) struct RootPoll<'a> {
    tasks: &'a Tasks,
    _polling: Polling,
}

impl Drop for RootPoll<'_> {
    fn drop(&mut self) {
        self.tasks.after_poll();
        self.tasks.is_polling_root.set(false);
        self.tasks.with_activity(TaskId::current(), |activity| self.tasks.note_told(activity));
    }
}

/// Schedules a task that was woken: into the ready queue on its own thread, otherwise into the
/// remote queue.
fn schedule(runnable: Runnable) {
    let mut runnable = Some(runnable);
    CURRENT.with(|current| {
        current.with(|current| {
            if let Some(tasks) = current
                && let Some(runnable) =
                    runnable.take_if(|task| Arc::ptr_eq(&tasks.remote_queue, &task.metadata().0))
            {
                tasks.push(runnable, tasks.cause.get());
            }
        });
    });
    if let Some(runnable) = runnable {
        // Cloned, because the task may have run and gone before the push is over.
        let remote_queue = Arc::clone(&runnable.metadata().0);
        remote_queue.push(runnable);
    }
}

pin_project! {
    /// A future whose panics, in `poll` and in its destructor, end only the task.
    struct Guarded<F: Future> {
        // `None` after it has ended.
        #[pin]
        future: Option<F>,
        living: Living,
    }

    impl<F: Future> PinnedDrop for Guarded<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // A destructor that panics must end neither the runtime nor other tasks.
            contain(|| this.future.set(None));
        }
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = Result<Output<F::Output>, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (is_aborted, id) = this.living.tasks.before_poll(this.living.key);
        let _polling = id.poll();
        refill_budget(this.living.tasks.operations_per_poll);
        let future = this.future.as_mut().as_pin_mut().expect("async-task polls no ended task");
        let polled = match is_aborted {
            true => Ok(Poll::Pending),
            false => catch(|| future.poll(cx)),
        };
        this.living.tasks.after_poll();
        if !matches!(polled, Ok(Poll::Pending)) {
            this.living.tasks.ends(this.living.key);
        }
        let output = match polled {
            Ok(Poll::Ready(output)) => Ok(Output::new(output)),
            Ok(Poll::Pending) => match this.living.tasks.waits(this.living.key, cx.waker()) {
                true => Err(JoinError::cancelled()),
                false => return Poll::Pending,
            },
            Err(panic) => Err(JoinError::panic(panic)),
        };
        // The destructor of a future that has ended runs under the same guard as its last poll.
        match catch(|| this.future.set(None)) {
            Ok(()) => Poll::Ready(output),
            Err(panic) => Poll::Ready(Err(JoinError::panic(panic))),
        }
    }
}

/// The output of a task. If nobody takes it, its destructor runs inside async-task, where a panic
/// would abort the process.
pub(super) struct Output<T> {
    /// `None` after it was taken.
    value: Option<T>,
}

impl<T> Output<T> {
    fn new(value: T) -> Self {
        Self { value: Some(value) }
    }

    pub(super) fn take(mut self) -> T {
        self.value.take().expect("it is taken once, by value")
    }
}

impl<T> Drop for Output<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        contain(|| drop(value));
    }
}

/// The entry of a living future. It is removed when the future is dropped.
struct Living {
    tasks: Rc<Tasks>,
    key: usize,
}

impl Drop for Living {
    fn drop(&mut self) {
        // Dropped at the end of the statement, after the borrow: it may own the last reference.
        let _entry = self.tasks.living.borrow_mut().remove(self.key);
    }
}
