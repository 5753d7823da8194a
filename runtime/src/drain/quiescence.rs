//! [`Quiescence`]: who waits for the runtime to have nothing left to do, and whether it has.
//!
//! Pure: what decides is fed values. The loop looks when no task is ready ([`Handle::notice`]); the
//! drains wait.
//!
//! Whether a program has nothing left to do cannot always be known. What is certain is waited for
//! until the deadline of the drain; what is not, for [`UNCERTAIN_WAIT_MS`] after the last datagram
//! was delivered.
//!
//! [`Handle::notice`]: crate::Handle::notice_quiescence
//! [`UNCERTAIN_WAIT_MS`]: crate::limits::UNCERTAIN_WAIT_MS

use std::cell::{Cell, RefCell};
use std::task::Waker;
use std::time::Instant;

use super::sockets::Receivers;
use crate::driver::Wakes;
use crate::task::TaskId;

/// What is known of the runtime when no task is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Something is under way that ends by itself.
    Busy,
    /// Receivers are expected.
    Expecting,
    /// Whether anything is left to do is not known.
    Uncertain,
    /// Nothing is left to do.
    Quiescent,
}

/// What a look at the sockets and tasks shows.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Whether a receiver is expected that does not itself wait for a drain.
    expects: bool,
    /// Whether the receiver of a socket, with datagrams in its inbox, waits for a drain itself.
    pub(crate) waits_for_itself: bool,
    /// Whether one of several receivers is away.
    is_away: bool,
    /// Whether datagrams wait that nobody has ever asked for.
    pub(crate) is_unclaimed: bool,
    /// Whether datagrams wait whose receivers have ended.
    pub(crate) is_gone: bool,
}

impl Look {
    /// Takes in what a socket answers, which holds `undelivered` datagrams. The tasks `waiting` wait
    /// for a drain.
    pub(crate) fn take(&mut self, receivers: Receivers, undelivered: usize, waiting: &[TaskId]) {
        match receivers {
            Receivers::Served => {}
            // A task that waits for the drain has handled what it was handed, or will afterwards.
            Receivers::Expected(task) if waiting.contains(&task) => {
                self.waits_for_itself |= undelivered > 0;
            }
            Receivers::Expected(_) => self.expects = true,
            Receivers::Away => self.is_away = true,
            Receivers::Gone => self.is_gone = true,
            Receivers::Unclaimed => self.is_unclaimed = true,
        }
    }

    /// What follows, where `sleeping` tasks wait for sleeps, `at_work` of them at work, the program
    /// holds `in_hand` messages, and nobody has polled for the results of `unclaimed` operations.
    pub(crate) fn standing(
        &self,
        sleeping: usize,
        at_work: usize,
        in_hand: usize,
        unclaimed: usize,
    ) -> Standing {
        // Whoever sleeps may be on its way to receive, or to send where it has found space.
        let is_left = self.waits_for_itself || self.is_gone || self.is_unclaimed || unclaimed > 0;
        let may_come = sleeping > 0 && is_left;
        if self.expects {
            Standing::Expecting
        } else if may_come || self.is_away || at_work > 0 || in_hand > 0 {
            Standing::Uncertain
        } else {
            Standing::Quiescent
        }
    }
}

/// Who waits for the runtime to be quiescent, and how often it was.
#[derive(Default)]
pub(crate) struct Quiescence {
    waiters: RefCell<Vec<Waker>>,
    /// The tasks that wait for drains.
    tasks: RefCell<Vec<TaskId>>,
    /// How often the runtime was found quiescent while somebody waited for it.
    count: Cell<u64>,
    /// `Some` while it is uncertain whether anything is left to do: since when.
    uncertain: Cell<Option<Uncertain>>,
    /// True exactly when holds or blocking calls held the exit open at the last look.
    is_held_open: Cell<bool>,
    /// True once the exit is to wait for nothing any more.
    is_stopped: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Uncertain {
    since: Instant,
    /// How many datagrams had been delivered.
    delivered: u64,
    /// False while something else is waited for.
    is_current: bool,
}

impl Quiescence {
    /// A task begins to wait for a drain.
    pub(crate) fn enter(&self, task: TaskId) {
        self.tasks.borrow_mut().push(task);
    }

    /// A task does not wait for a drain any more.
    pub(crate) fn leave(&self, task: TaskId) {
        let mut tasks = self.tasks.borrow_mut();
        if let Some(at) = tasks.iter().position(|waiting| *waiting == task) {
            tasks.swap_remove(at);
        }
        if tasks.is_empty() {
            self.uncertain.set(None);
        }
    }

    /// The tasks that wait for drains.
    pub(crate) fn tasks(&self) -> Vec<TaskId> {
        self.tasks.borrow().clone()
    }

    /// Wakes `waker` when the runtime is quiescent, or it is uncertain whether it is.
    pub(crate) fn wait(&self, waker: &Waker) {
        let known = self.waiters.borrow().iter().any(|waiting| waiting.will_wake(waker));
        if !known {
            // Cloned before the borrow: wakers are third-party code.
            let waker = waker.clone();
            self.waiters.borrow_mut().push(waker);
        }
    }

    /// Whether anybody waits for the runtime to be quiescent.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.waiters.borrow().is_empty()
    }

    /// How often the runtime was found quiescent while somebody waited for it.
    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    /// Since when it has been uncertain whether anything is left to do, if it is now.
    pub(crate) fn uncertain_since(&self) -> Option<Instant> {
        let uncertain = self.uncertain.get().filter(|uncertain| uncertain.is_current);
        uncertain.map(|uncertain| uncertain.since)
    }

    /// Other sockets are to be delivered: what was uncertain begins anew.
    pub(crate) fn begin_stage(&self) {
        self.uncertain.set(None);
    }

    /// Before a look at the rest: whether holds or blocking calls hold the exit open.
    pub(crate) fn set_held_open(&self, is_held_open: bool) {
        self.is_held_open.set(is_held_open);
    }

    /// Whether holds or blocking calls held the exit open at the last look.
    pub(crate) fn is_held_open(&self) -> bool {
        self.is_held_open.get()
    }

    /// The exit waits for nothing any more.
    pub(crate) fn stop(&self, wakes: &mut Wakes) {
        self.is_stopped.set(true);
        self.wake(wakes);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.get()
    }

    /// No task is ready at `now`, and so many datagrams have been `delivered`.
    pub(crate) fn notice(
        &self,
        standing: Standing,
        now: Instant,
        delivered: u64,
        wakes: &mut Wakes,
    ) {
        let last = self.uncertain.get();
        match standing {
            // Periodic work, which may go on for ever, must not begin the wait anew each time.
            Standing::Busy => {
                self.uncertain.set(last.map(|last| Uncertain { is_current: false, ..last }));
            }
            Standing::Expecting => self.uncertain.set(None),
            Standing::Quiescent => {
                self.count.set(self.count.get() + 1);
                self.wake(wakes);
            }
            Standing::Uncertain => {
                // It begins anew with each datagram that is delivered.
                let same = last.filter(|last| last.delivered == delivered);
                if same.is_some_and(|last| last.is_current) {
                    return;
                }
                let since = same.map_or(now, |last| last.since);
                self.uncertain.set(Some(Uncertain { since, delivered, is_current: true }));
                self.wake(wakes);
            }
        }
    }

    fn wake(&self, wakes: &mut Wakes) {
        wakes.wakers().append(&mut self.waiters.borrow_mut());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TASK: TaskId = TaskId::NONE;

    fn look(receivers: Receivers, undelivered: usize, waiting: &[TaskId]) -> Look {
        let mut look = Look::default();
        look.take(receivers, undelivered, waiting);
        look
    }

    #[test]
    fn what_is_certain_is_waited_for_or_not_whoever_sleeps() {
        for sleeping in [0, 3] {
            let standing = |receivers| look(receivers, 1, &[]).standing(sleeping, 0, 0, 0);
            assert_eq!(standing(Receivers::Served), Standing::Quiescent);
            assert_eq!(standing(Receivers::Expected(TASK)), Standing::Expecting);
            assert_eq!(standing(Receivers::Away), Standing::Uncertain);
        }
    }

    /// Fails when an exit waits for nobody, or when it does not wait for who may come.
    #[test]
    fn a_receiver_may_still_come_only_where_somebody_sleeps() {
        for receivers in [Receivers::Unclaimed, Receivers::Gone] {
            assert_eq!(look(receivers, 1, &[]).standing(0, 0, 0, 0), Standing::Quiescent);
            assert_eq!(look(receivers, 1, &[]).standing(1, 0, 0, 0), Standing::Uncertain);
        }
    }

    #[test]
    fn a_task_that_waits_for_the_drain_is_not_waited_for() {
        let own = look(Receivers::Expected(TASK), 1, &[TASK]);
        assert!(own.waits_for_itself);
        assert_eq!(own.standing(0, 0, 0, 0), Standing::Quiescent);
        assert!(!look(Receivers::Expected(TASK), 0, &[TASK]).waits_for_itself);
    }

    #[test]
    fn work_and_what_is_in_hand_are_uncertain() {
        let look = Look::default();
        assert_eq!(look.standing(1, 0, 0, 0), Standing::Quiescent);
        assert_eq!(look.standing(1, 1, 0, 0), Standing::Uncertain);
        assert_eq!(look.standing(0, 0, 1, 0), Standing::Uncertain);
    }

    /// Fails when periodic work begins the wait anew each time, or a delivery does not.
    #[test]
    fn what_is_uncertain_is_waited_for_since_the_last_delivery() {
        let quiescence = Quiescence::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let notice = |standing, seconds, delivered| {
            quiescence.notice(standing, at(seconds), delivered, &mut Wakes::default());
            quiescence.uncertain_since()
        };
        assert_eq!(notice(Standing::Uncertain, 1, 5), Some(at(1)));
        assert_eq!(notice(Standing::Uncertain, 2, 5), Some(at(1)));
        assert_eq!(notice(Standing::Busy, 3, 5), None);
        assert_eq!(notice(Standing::Uncertain, 4, 5), Some(at(1)));
        assert_eq!(notice(Standing::Uncertain, 5, 6), Some(at(5)));
        assert_eq!(notice(Standing::Expecting, 6, 6), None);
        assert_eq!(notice(Standing::Uncertain, 7, 6), Some(at(7)));
        assert_eq!(quiescence.count(), 0);
        notice(Standing::Quiescent, 8, 6);
        assert_eq!(quiescence.count(), 1);
    }
}
