//! The owner sleeps only when nothing is left, and a thread that pushes or wakes afterwards wakes
//! it. A lost wake-up leaves the owner asleep for ever, which loom reports as a deadlock.

use std::sync::Arc;
use std::task::Wake;

use loom::thread;

use crate::calls::{BlockingCalls, CallGuard};
use crate::sync::Eventfd;
use crate::task::{Permission, RemoteQueue, Root};

/// The thread of the runtime.
struct Owner<T> {
    inbox: Arc<RemoteQueue<T>>,
    root: Arc<Root<T>>,
    eventfd: Arc<Eventfd>,
    taken: Vec<T>,
    /// How often the root was polled.
    polls: usize,
    /// How often it set "asleep".
    sleeps: u64,
    /// The count that it has read from the eventfd.
    writes: u64,
    /// What keeps the exit open.
    holds: BlockingCalls,
    /// Whether the exit was kept open at the last look.
    is_held_open: bool,
}

impl<T: Send + 'static> Owner<T> {
    fn new() -> Self {
        let eventfd = Arc::new(Eventfd::default());
        let inbox = Arc::new(RemoteQueue::new(Arc::clone(&eventfd)));
        let root = Arc::new(Root::new(Arc::clone(&inbox)));
        let (taken, holds) = (Vec::new(), BlockingCalls::default());
        let (polls, sleeps, writes, is_held_open) = (0, 0, 0, false);
        Self { inbox, root, eventfd, taken, polls, sleeps, writes, holds, is_held_open }
    }

    /// `Runtime::run_until`, until `is_done` is true after a poll of the root or a look at the
    /// tasks.
    fn run_until(&mut self, mut is_done: impl FnMut(&mut Self) -> bool) {
        loop {
            while let Some(item) = self.inbox.pop() {
                self.taken.push(item);
            }
            if self.root.take_wake() {
                self.polls += 1;
            }
            if is_done(self) {
                return;
            }
            self.submit_and_wait();
        }
    }

    /// `Runtime::submit_and_wait`.
    fn submit_and_wait(&mut self) {
        if self.root.is_woken() {
            return;
        }
        self.sleeps += 1;
        let was_let_go = || self.is_held_open && self.holds.count() == 0;
        if self.root.fall_asleep() == Permission::Sleep && !was_let_go() {
            self.writes += self.eventfd.wait();
        }
        self.inbox.awake();
    }
}

/// Two threads hand over two tasks and one task. The owner gets all of them, those of each thread
/// in order. The eventfd is written at most once per sleep.
pub fn every_task_that_is_handed_over_is_taken() {
    let mut owner = Owner::new();
    let threads: Vec<_> = [&[10, 11][..], &[20]]
        .into_iter()
        .map(|items| {
            let inbox = Arc::clone(&owner.inbox);
            thread::spawn(move || items.iter().for_each(|&item| inbox.push(item)))
        })
        .collect();
    owner.run_until(|owner| owner.taken.len() == 3);
    for thread in threads {
        thread.join().expect("the thread does not panic");
    }
    let of = |tens| owner.taken.iter().copied().filter(move |item| item / 10 == tens);
    assert_eq!(of(1).collect::<Vec<u32>>(), [10, 11]);
    assert_eq!(of(2).collect::<Vec<u32>>(), [20]);
    let writes = owner.writes + owner.eventfd.take();
    assert!(writes <= owner.sleeps, "{writes} writes for {} sleeps", owner.sleeps);
}

/// Two threads set a flag each and wake the root. The root is polled after the last flag was set,
/// and once at the start.
pub fn every_wake_of_the_root_leads_to_a_poll() {
    let mut owner = Owner::<()>::new();
    let flags = Arc::new([
        loom::sync::atomic::AtomicBool::new(false),
        loom::sync::atomic::AtomicBool::new(false),
    ]);
    for index in 0..flags.len() {
        let (root, flags) = (Arc::clone(&owner.root), Arc::clone(&flags));
        thread::spawn(move || {
            // The event behind a wake is written before it, with any ordering.
            flags[index].store(true, loom::sync::atomic::Ordering::Relaxed);
            root.wake_by_ref();
        });
    }
    let mut polls = 0;
    let mut all_set = false;
    owner.run_until(|owner| {
        if owner.polls > polls {
            polls = owner.polls;
            all_set = flags.iter().all(|flag| flag.load(loom::sync::atomic::Ordering::Relaxed));
        }
        all_set
    });
    assert!(owner.polls <= 3, "polled {} times", owner.polls);
}

/// One thread hands over a task, another wakes the root. Both share one "asleep".
pub fn a_task_and_the_root_wake_the_same_sleep() {
    let mut owner = Owner::new();
    // Each root is polled once at the start.
    assert!(owner.root.take_wake());
    let inbox = Arc::clone(&owner.inbox);
    thread::spawn(move || inbox.push(1));
    let root = Arc::clone(&owner.root);
    thread::spawn(move || root.wake_by_ref());
    owner.run_until(|owner| owner.taken == [1] && owner.polls == 1);
    let writes = owner.writes + owner.eventfd.take();
    assert!(writes <= owner.sleeps, "{writes} writes for {} sleeps", owner.sleeps);
}

/// A blocking call ends on its thread, which hands over its task. The owner takes the result and
/// drops the hold. The drain checks the count before each sleep, and ends after that, not before.
///
/// As in `spawn_blocking`, the hold of the call ends with the call, and its task has another.
pub fn the_drain_ends_after_the_last_blocking_call_was_taken() {
    let mut owner = Owner::new();
    let blocking = BlockingCalls::default();
    let mut until_taken = Vec::new();
    let mut calls = Vec::new();
    for call in 0..2 {
        let until_ended = Arc::new(blocking.hold());
        until_taken.push(Some(Arc::clone(&until_ended)));
        let inbox = Arc::clone(&owner.inbox);
        calls.push(thread::spawn(move || {
            drop::<Arc<CallGuard>>(until_ended);
            inbox.push(call);
        }));
    }
    owner.run_until(|owner| {
        for &call in &owner.taken {
            until_taken[call] = None;
        }
        blocking.count() == 0
    });
    assert_eq!(owner.taken.len(), 2, "the drain ended before a result was taken");
    for call in calls {
        call.join().expect("the thread does not panic");
    }
}

/// Two threads drop their holds of the exit, and then wake the owner, as `ExitHold` does. The drain
/// checks the count before each sleep, and again after it has set "asleep". It ends.
pub fn the_drain_ends_when_other_threads_have_let_go() {
    let mut owner = Owner::<()>::new();
    for _ in 0..2 {
        let (hold, inbox) = (owner.holds.hold(), Arc::clone(&owner.inbox));
        thread::spawn(move || {
            drop(hold);
            inbox.wake();
        });
    }
    owner.run_until(|owner| {
        owner.is_held_open = owner.holds.count() > 0;
        !owner.is_held_open
    });
}
