//! [`Tasks`]: the ready queue and the tasks that live; how a task is spawned, polled and dropped.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::mem::{self, ManuallyDrop};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_task::Builder;
use pin_project_lite::pin_project;
use slab::Slab;

use super::budget::refill_budget;
use super::current::{Polling, TaskId};
use super::inbox::Inbox;
use super::join::{JoinError, JoinHandle};
use crate::panics::{catch, contain};

thread_local! {
    /// The tasks of the runtime that runs on this thread: what wakes here, wakes without a lock.
    /// Never dropped, so that it is there until the thread is gone: a runtime may end with it.
    static CURRENT: RefCell<ManuallyDrop<Option<Rc<Tasks>>>> =
        const { RefCell::new(ManuallyDrop::new(None)) };
}

/// A task that is to be polled.
pub(crate) type Runnable = async_task::Runnable<Home>;

/// Where a task goes when it is woken on another thread. With the task and not with its schedule
/// function, which has nothing of its own then: async-task would count the task up and down twice
/// for each wake, to keep what it has.
pub(crate) struct Home(Arc<Inbox<Runnable>>);

/// Every task of a runtime.
pub(crate) struct Tasks {
    ready: RefCell<VecDeque<Runnable>>,
    living: RefCell<Slab<Entry>>,
    /// The future of `block_on`, while it runs.
    root: Cell<Option<(TaskId, Activity)>>,
    /// Its waker.
    root_waker: RefCell<Option<Waker>>,
    inbox: Arc<Inbox<Runnable>>,
    operations_per_poll: u32,
    /// True once the tasks are being dropped: what is spawned from then on never runs.
    closed: Cell<bool>,
    /// How many tasks have left the ready queue.
    left: Cell<u64>,
    watch: Watch,
}

/// Which tasks have work to do at the exit, and not only something to do from time to time. What is
/// polled only because a timer of its own has expired may do so for ever; so a task is *at work* if
/// it was polled for any other reason since a drain began.
#[derive(Default)]
struct Watch {
    /// How many drains watch.
    drains: Cell<usize>,
    /// Which places of the ready queue, counted from its first task ever, timers have filled.
    by_timer: RefCell<VecDeque<Range<u64>>>,
    /// Whether the task that is being polled was made ready by a timer.
    polled_by_timer: Cell<bool>,
}

/// What a drain wants to know of a task.
#[derive(Clone, Copy, Default)]
struct Activity {
    /// How many sleeps it waits for.
    sleeps: u32,
    /// True exactly when it was polled, since a drain began, for another reason than a timer.
    is_at_work: bool,
}

/// What is known of a task whose future lives.
struct Entry {
    /// For aborting it, and for dropping it at the end. `None` until it was polled in vain: until
    /// then it is in the ready queue, or is being polled.
    waker: Option<Waker>,
    /// True once `abort` was called: the future is dropped instead of polled.
    aborted: bool,
    id: TaskId,
    activity: Activity,
}

impl Tasks {
    pub(crate) fn new(inbox: Arc<Inbox<Runnable>>, operations_per_poll: u32) -> Self {
        Self {
            ready: RefCell::default(),
            living: RefCell::default(),
            root: Cell::new(None),
            root_waker: RefCell::default(),
            inbox,
            operations_per_poll,
            closed: Cell::new(false),
            left: Cell::new(0),
            watch: Watch::default(),
        }
    }

    /// Makes these the tasks of this thread until the guard is dropped.
    pub(crate) fn enter(self: &Rc<Self>) -> Entered {
        let own = Some(Rc::clone(self));
        Entered { outer: CURRENT.with(|current| mem::replace(&mut **current.borrow_mut(), own)) }
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox<Runnable>> {
        &self.inbox
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
            let (id, activity) = (TaskId::new(key), Activity::default());
            place.insert(Entry { waker: None, aborted: false, id, activity });
            key
        };
        let living = Living { tasks: Rc::clone(self), key };
        let home = Home(Arc::clone(&self.inbox));
        let guarded = Guarded { future: Some(future), living };
        let (runnable, task) = Builder::new().metadata(home).spawn_local(|_| guarded, schedule);
        if self.closed.get() {
            // Nobody would ever poll it: its handle reports that it was cancelled.
            drop(runnable);
        } else {
            self.push(runnable);
        }
        JoinHandle::new(task.fallible(), Rc::clone(self), key)
    }

    /// Puts a task at the end of the ready queue.
    pub(crate) fn push(&self, runnable: Runnable) {
        self.ready.borrow_mut().push_back(runnable);
    }

    /// Moves what other threads woke into the ready queue.
    pub(crate) fn take_inbox(&self) {
        while let Some(runnable) = self.inbox.pop() {
            self.push(runnable);
        }
    }

    /// Polls the task that has been ready longest, if any is.
    pub(crate) fn run_one(&self) {
        let runnable = self.ready.borrow_mut().pop_front();
        if let Some(runnable) = runnable {
            let place = self.left.get();
            self.left.set(place + 1);
            if self.watch.drains.get() > 0 {
                self.watch.poll(place);
            }
            runnable.run();
        }
    }

    /// The place in the ready queue that the next task to become ready gets, counted from the first
    /// ever.
    pub(crate) fn next_place(&self) -> u64 {
        self.left.get() + self.ready_count() as u64
    }

    /// The tasks in these places of the ready queue have become ready because timers have expired.
    pub(crate) fn made_ready_by_timers(&self, places: Range<u64>) {
        if self.watch.drains.get() > 0 && !places.is_empty() {
            self.watch.by_timer.borrow_mut().push_back(places);
        }
    }

    /// Has the future of a living task dropped at its next turn.
    pub(super) fn abort(&self, key: usize) {
        let waker = self.living.borrow_mut().get_mut(key).and_then(|entry| {
            entry.aborted = true;
            entry.waker.clone()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A task is to be polled: whether it was aborted, and which it is.
    fn before_poll(&self, key: usize) -> (bool, TaskId) {
        let mut living = self.living.borrow_mut();
        let entry = &mut living[key];
        if self.watch.drains.get() > 0 {
            entry.activity.is_at_work |= !self.watch.polled_by_timer.get();
        }
        (entry.aborted, entry.id)
    }

    /// A task was polled in vain, and waits for `waker`, which is its own. Returns whether it was
    /// aborted meanwhile, and does not wait: nobody else may ever wake it.
    fn waits(&self, key: usize, waker: &Waker) -> bool {
        let entry = &mut self.living.borrow_mut()[key];
        if entry.waker.is_none() {
            // Of `async-task`: no user code runs here.
            entry.waker = Some(waker.clone());
        }
        entry.aborted
    }

    /// Drops the futures of all tasks, also of those that the destructors of others spawn. Returns
    /// how many.
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
            self.take_inbox();
            loop {
                let runnable = self.ready.borrow_mut().pop_front();
                let Some(runnable) = runnable else { break };
                drop(runnable);
                dropped += 1;
            }
            // What is still living is on its way to the inbox, in the hands of another thread.
            std::thread::yield_now();
        }
    }
}

/// For the drain.
impl Tasks {
    /// The future of `block_on` begins. It ends with the guard.
    pub(crate) fn enter_root(self: &Rc<Self>, waker: &Waker) -> RunningRoot {
        let id = TaskId::root();
        let outer_waker = self.root_waker.replace(Some(waker.clone()));
        let outer = self.root.replace(Some((id, Activity::default())));
        RunningRoot { tasks: Rc::clone(self), id, outer, outer_waker }
    }

    /// Whether a waker is that of the task that is being polled, and no third party's.
    pub(super) fn is_own(&self, waker: &Waker) -> bool {
        let is_root = || self.root_waker.borrow().as_ref().is_some_and(|own| own.will_wake(waker));
        let Some(key) = TaskId::current().key() else { return is_root() };
        let living = self.living.borrow();
        let own = living.get(key).and_then(|entry| entry.waker.as_ref());
        own.is_some_and(|own| own.will_wake(waker))
    }

    /// Whether a task has not ended. What is no task of a runtime never ends, for all that is known.
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

    /// A sleep of the task that is being polled begins to wait.
    pub(crate) fn sleep_begins(&self) -> TaskId {
        let task = TaskId::current();
        self.with_activity(task, |activity| activity.sleeps += 1);
        task
    }

    /// A sleep that `task` began is over, or was dropped.
    pub(crate) fn sleep_ends(&self, task: TaskId) {
        self.with_activity(task, |activity| activity.sleeps -= 1);
    }

    /// How many tasks wait for sleeps, `except` some.
    pub(crate) fn sleeping(&self, except: &[TaskId]) -> usize {
        self.count(except, |activity| activity.sleeps > 0)
    }

    /// How many tasks are at work and wait for sleeps, `except` some.
    pub(crate) fn sleeping_at_work(&self, except: &[TaskId]) -> usize {
        self.count(except, |activity| activity.sleeps > 0 && activity.is_at_work)
    }

    fn count(&self, except: &[TaskId], counts: impl Fn(Activity) -> bool) -> usize {
        let living = self.living.borrow();
        let tasks = living.iter().map(|(_, entry)| (entry.id, entry.activity));
        tasks
            .chain(self.root.get())
            .filter(|(id, activity)| !except.contains(id) && counts(*activity))
            .count()
    }

    /// A drain begins to watch which tasks are at work.
    pub(crate) fn watch(&self) {
        let drains = self.watch.drains.get();
        if drains == 0 {
            for (_, entry) in self.living.borrow_mut().iter_mut() {
                entry.activity.is_at_work = false;
            }
        }
        self.watch.drains.set(drains + 1);
    }

    /// A drain that watched has ended.
    pub(crate) fn watch_ends(&self) {
        let drains = self.watch.drains.get() - 1;
        self.watch.drains.set(drains);
        if drains == 0 {
            self.watch.by_timer.borrow_mut().clear();
        }
    }
}

impl Watch {
    /// The task in this place of the ready queue is polled next.
    fn poll(&self, place: u64) {
        let mut by_timer = self.by_timer.borrow_mut();
        while by_timer.front().is_some_and(|places| places.end <= place) {
            by_timer.pop_front();
        }
        let is_by_timer = by_timer.front().is_some_and(|places| places.contains(&place));
        self.polled_by_timer.set(is_by_timer);
    }
}

/// While it exists, the future of `block_on` runs.
pub(crate) struct RunningRoot {
    tasks: Rc<Tasks>,
    id: TaskId,
    /// That of the loop that this one runs inside of.
    outer: Option<(TaskId, Activity)>,
    outer_waker: Option<Waker>,
}

impl RunningRoot {
    /// Makes it what this thread is polling, until the guard is dropped.
    pub(crate) fn poll(&self) -> Polling {
        self.id.poll()
    }
}

impl Drop for RunningRoot {
    fn drop(&mut self) {
        self.tasks.root.set(self.outer.take());
        self.tasks.root_waker.replace(self.outer_waker.take());
    }
}

/// Where a woken task goes: to the ready queue on its own thread, else to the inbox.
fn schedule(runnable: Runnable) {
    let mut runnable = Some(runnable);
    CURRENT.with(|current| {
        if let Some(tasks) = &**current.borrow()
            && let Some(runnable) =
                runnable.take_if(|task| Arc::ptr_eq(&tasks.inbox, &task.metadata().0))
        {
            tasks.push(runnable);
        }
    });
    if let Some(runnable) = runnable {
        // A share of its own: the task may have run and gone before the push is over.
        let inbox = Arc::clone(&runnable.metadata().0);
        inbox.push(runnable);
    }
}

/// Undoes a [`Tasks::enter`].
pub(crate) struct Entered {
    outer: Option<Rc<Tasks>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let outer = self.outer.take();
        // Possibly the last reference: dropped when nothing is borrowed.
        drop(CURRENT.with(|current| mem::replace(&mut **current.borrow_mut(), outer)));
    }
}

pin_project! {
    /// A future whose panics, in `poll` as in its destructor, stop at the task.
    struct Guarded<F: Future> {
        // `None` once it has ended.
        #[pin]
        future: Option<F>,
        living: Living,
    }

    impl<F: Future> PinnedDrop for Guarded<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // A destructor that panics must take neither the runtime nor other tasks with it.
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
        let output = match polled {
            Ok(Poll::Ready(output)) => Ok(Output::new(output)),
            Ok(Poll::Pending) => match this.living.tasks.waits(this.living.key, cx.waker()) {
                true => Err(JoinError::cancelled()),
                false => return Poll::Pending,
            },
            Err(panic) => Err(JoinError::panic(panic)),
        };
        // The destructor of a future that ended runs under the same guard as its last poll.
        match catch(|| this.future.set(None)) {
            Ok(()) => Poll::Ready(output),
            Err(panic) => Poll::Ready(Err(JoinError::panic(panic))),
        }
    }
}

/// What a task gave. Nobody may ever take it, and then its destructor runs inside of async-task,
/// where a panic would abort the process.
pub(super) struct Output<T> {
    /// `None` once it was taken.
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

/// The entry of a living future; gone when the future is.
struct Living {
    tasks: Rc<Tasks>,
    key: usize,
}

impl Drop for Living {
    fn drop(&mut self) {
        // Dropped at the end of the statement, after the borrow: it may be the last reference.
        let _entry = self.tasks.living.borrow_mut().remove(self.key);
    }
}
