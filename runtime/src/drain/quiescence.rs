//! [`Quiescence`]: decides whether the runtime has nothing left to do, and who waits for that.
//!
//! Pure: it is passed what the loop has found. The loop looks when no task is ready
//! ([`notice_quiescence`]), and from time to time if some always are. The drains wait.
//!
//! Whether a program has nothing left to do cannot always be known. For what is certain, a drain
//! waits until its deadline. For what is uncertain, it waits until [`UNCERTAIN_WAIT_MS`] have
//! passed since the last progress. Progress other than a delivery counts only for
//! [`PROGRESS_WAIT_MS`].
//!
//! [`notice_quiescence`]: super::notice_quiescence
//! [`UNCERTAIN_WAIT_MS`]: crate::limits::UNCERTAIN_WAIT_MS
//! [`PROGRESS_WAIT_MS`]: crate::limits::PROGRESS_WAIT_MS

use std::cell::{Cell, RefCell};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::sockets::Presence;
use crate::limits::PROGRESS_WAIT_MS;
use crate::task::{ReceiverTask, Survey, TaskId};
use crate::wakes::Wakes;

/// What is known of the runtime when no task is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Something is under way that ends by itself.
    Busy,
    /// Receivers are expected to come back.
    Expecting,
    /// It is not known whether anything is left to do.
    Uncertain,
    /// Nothing is left to do.
    Quiescent,
}

/// Whether tasks are ready when the loop looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    None,
    /// Some are, and have been for many turns. It is not known what they do.
    Always,
}

/// What a look at the sockets has found.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Whether a receiver is expected to come back.
    pub(crate) expects: bool,
    /// Whether a receiver may come back, or may not.
    may_come: bool,
    /// Whether the receiver of a socket with datagrams in its inbox waits for a drain.
    pub(crate) waits_for_itself: bool,
    /// Whether there are datagrams whose receivers have ended, or do not come back.
    pub(crate) is_gone: bool,
    /// Whether there are datagrams that nobody has ever asked for.
    pub(crate) is_unclaimed: bool,
}

/// What is known of a receiver of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receiver {
    pub(crate) presence: Presence,
    /// Whether it waits for a drain, directly or through others.
    pub(crate) waits_for_drain: bool,
    /// Whether it was handed datagrams of another socket since, and waits for more of them.
    pub(crate) has_moved_on: bool,
    pub(crate) task: ReceiverTask,
}

impl Look {
    /// Takes a sealed socket with `undelivered` datagrams into account, and those of its receivers
    /// that have not ended. `had_any`: whether it ever had receivers.
    pub(crate) fn take(
        &mut self,
        undelivered: usize,
        receivers: impl Iterator<Item = Receiver>,
        had_any: bool,
    ) {
        let mut is_nobody = true;
        for receiver in receivers {
            is_nobody = false;
            self.take_receiver(undelivered > 0, receiver);
        }
        if is_nobody && undelivered > 0 {
            self.is_gone |= had_any;
            self.is_unclaimed |= !had_any;
        }
    }

    fn take_receiver(&mut self, is_left: bool, receiver: Receiver) {
        let Receiver { presence, waits_for_drain, has_moved_on, task } = receiver;
        match presence {
            Presence::Waiting | Presence::Absent if !is_left => {}
            // It has handled what it was handed, or will afterwards. If it polls the drain together
            // with other futures, as in a join, it may come back if it sleeps or was handed a
            // datagram since.
            Presence::Handling | Presence::HandlingSinceBefore if waits_for_drain && !is_left => {
                self.may_come |= presence == Presence::Handling || task.is_asleep;
            }
            _ if waits_for_drain => {
                self.waits_for_itself = true;
                // It may poll the drain together with other futures, as in a join.
                self.may_come |= presence != Presence::Absent || task.is_asleep;
            }
            Presence::Waiting => self.expects = true,
            Presence::Absent => {
                self.is_gone = true;
                // Its sleep ends by itself.
                self.expects |= task.is_asleep && !task.has_stopped_receiving;
                self.may_come = true;
            }
            _ if has_moved_on || task.has_stopped_receiving => {
                self.may_come = true;
                self.is_gone |= is_left;
            }
            Presence::HandlingSinceBefore if !is_left && task.does_other_things => {
                self.may_come = true;
            }
            Presence::Handling | Presence::HandlingSinceBefore => self.expects = true,
        }
    }

    /// The conclusion, if no task is ready. The tasks do what `survey` says, the program has
    /// `in_hand` messages, and nobody has taken the results of `unclaimed` operations.
    pub(crate) fn standing(&self, survey: &Survey, in_hand: usize, unclaimed: usize) -> Standing {
        // A task that sleeps may be about to receive, or to send if it has found buffer space.
        let is_left = self.waits_for_itself || self.is_gone || self.is_unclaimed || unclaimed > 0;
        let at_work = survey.at_work + survey.maybe_at_work + survey.behind;
        let may_come = self.may_come || survey.asleep > 0 && is_left;
        if self.expects {
            Standing::Expecting
        } else if may_come || at_work + in_hand > 0 {
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
    /// When the first of the drains under way began, and when the last of them ends.
    time: Cell<Option<(Instant, Instant)>>,
    /// How often the runtime was quiescent while somebody waited for it.
    count: Cell<u64>,
    /// How many stages were sealed, by all drains, and how many had been when the runtime was last
    /// found quiescent.
    stages: Cell<u64>,
    found_at: Cell<u64>,
    /// `Some` while it is uncertain whether anything is left to do.
    uncertain: Cell<Option<Uncertain>>,
    /// Whether tasks with work still made progress when the drain stopped waiting for them.
    goes_on: Cell<bool>,
    /// True exactly when holds or blocking calls held the exit open at the last look.
    is_held_open: Cell<bool>,
    /// True after the exit was told to wait for nothing.
    is_stopped: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Uncertain {
    /// The last progress. Time in which something else was waited for is not counted.
    since: Instant,
    /// The last delivery, or the beginning of the uncertainty.
    began: Instant,
    /// The last look.
    seen: Instant,
    done: Progress,
    /// False while something else is waited for.
    is_current: bool,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How many datagrams sealed sockets have delivered.
    pub(crate) delivered: u64,
    /// How often tasks with work went on.
    pub(crate) steps: u64,
}

impl Quiescence {
    /// A task begins to wait for a drain, which began at `start` and ends by `end`.
    pub(crate) fn enter(&self, task: TaskId, start: Instant, end: Instant) {
        self.tasks.borrow_mut().push(task);
        let (first, last) = self.time.get().unwrap_or((start, end));
        self.time.set(Some((first.min(start), last.max(end))));
    }

    /// When the first of the drains under way began, and when the last of them ends.
    pub(crate) fn time(&self) -> Option<(Instant, Instant)> {
        self.time.get()
    }

    /// A task no longer waits for a drain.
    pub(crate) fn leave(&self, task: TaskId) {
        let mut tasks = self.tasks.borrow_mut();
        if let Some(at) = tasks.iter().position(|waiting| *waiting == task) {
            tasks.swap_remove(at);
        }
        if tasks.is_empty() {
            self.uncertain.set(None);
            self.time.set(None);
        }
    }

    /// The tasks that wait for drains.
    pub(crate) fn tasks(&self) -> Vec<TaskId> {
        self.tasks.borrow().clone()
    }

    /// Wakes `waker` when the runtime is quiescent, or when that is uncertain.
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

    /// How often the runtime was quiescent while somebody waited for it.
    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    /// Since when it has been uncertain whether anything is left to do, if it is uncertain now.
    pub(crate) fn uncertain_since(&self) -> Option<Instant> {
        let uncertain = self.uncertain.get().filter(|uncertain| uncertain.is_current);
        uncertain.map(|uncertain| uncertain.since)
    }

    /// Whether the runtime was quiescent, and no drain has sealed sockets since.
    pub(crate) fn is_reached(&self) -> bool {
        self.found_at.get() == self.stages.get()
    }

    /// Other sockets are to be delivered. What was uncertain starts again, for every drain.
    pub(crate) fn begin_stage(&self) {
        self.stages.set(self.stages.get() + 1);
        self.uncertain.set(None);
        self.goes_on.set(false);
    }

    /// Records, before a look at the rest, whether holds or blocking calls hold the exit open.
    pub(crate) fn set_held_open(&self, is_held_open: bool) {
        self.is_held_open.set(is_held_open);
    }

    /// Whether holds or blocking calls held the exit open at the last look.
    pub(crate) fn is_held_open(&self) -> bool {
        self.is_held_open.get()
    }

    /// The exit waits for nothing from now on.
    pub(crate) fn stop(&self, wakes: &mut Wakes) {
        self.is_stopped.set(true);
        self.wake(wakes);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.get()
    }

    /// Whether tasks with work still made progress when the drain stopped waiting for them.
    pub(crate) fn goes_on(&self) -> bool {
        self.goes_on.get()
    }

    /// Records a look at `now`, when `done` was done.
    pub(crate) fn notice(
        &self,
        standing: Standing,
        now: Instant,
        done: Progress,
        wakes: &mut Wakes,
    ) {
        // Periodic work, which may go on for ever, must not restart the wait each time.
        let last = self.uncertain.get().map(|last| match last.is_current {
            true => last,
            false => Uncertain { since: last.since + (now - last.seen), seen: now, ..last },
        });
        match standing {
            Standing::Busy => self.uncertain.set(last.map(|last| Uncertain {
                is_current: false,
                seen: now,
                ..last
            })),
            Standing::Expecting => self.uncertain.set(None),
            Standing::Quiescent => {
                self.count.set(self.count.get() + 1);
                self.found_at.set(self.stages.get());
                self.wake(wakes);
            }
            Standing::Uncertain => self.notice_uncertain(last, now, done, wakes),
        }
    }

    fn notice_uncertain(
        &self,
        last: Option<Uncertain>,
        now: Instant,
        done: Progress,
        wakes: &mut Wakes,
    ) {
        let seen = now;
        let next = match last {
            Some(last) if last.done == done => {
                if last.is_current {
                    return;
                }
                Uncertain { seen, is_current: true, ..last }
            }
            // The wait restarts with each delivery, and for some time with other progress.
            Some(last) if last.done.delivered == done.delivered => {
                let is_long = now >= last.began + Duration::from_millis(PROGRESS_WAIT_MS);
                self.goes_on.set(is_long);
                let since = if is_long { last.since } else { now };
                let done = if is_long { last.done } else { done };
                if is_long && last.is_current {
                    return;
                }
                Uncertain { since, seen, done, is_current: true, ..last }
            }
            _ => Uncertain { since: now, began: now, seen, done, is_current: true },
        };
        self.uncertain.set(Some(next));
        self.wake(wakes);
    }

    fn wake(&self, wakes: &mut Wakes) {
        wakes.wakers().append(&mut self.waiters.borrow_mut());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BUSY: ReceiverTask = ReceiverTask {
        is_asleep: true,
        does_other_things: true,
        has_stopped_receiving: false,
        last_handed: 0,
    };
    const GONE: ReceiverTask = ReceiverTask { has_stopped_receiving: true, ..BUSY };

    fn receiver(presence: Presence) -> Receiver {
        let task = ReceiverTask::default();
        Receiver { presence, waits_for_drain: false, has_moved_on: false, task }
    }

    fn drains(presence: Presence) -> Receiver {
        Receiver { waits_for_drain: true, ..receiver(presence) }
    }

    fn look(undelivered: usize, receiver: Receiver) -> Look {
        let mut look = Look::default();
        look.take(undelivered, [receiver].into_iter(), true);
        look
    }

    /// The conclusion if nothing else is left to do.
    fn standing(undelivered: usize, receiver: Receiver) -> Standing {
        look(undelivered, receiver).standing(&Survey::default(), 0, 0)
    }

    #[test]
    fn a_receiver_that_waits_is_expected_only_where_something_waits_for_it() {
        assert_eq!(standing(0, receiver(Presence::Waiting)), Standing::Quiescent);
        assert_eq!(standing(1, receiver(Presence::Waiting)), Standing::Expecting);
    }

    /// Fails when a receiver that was handed a datagram is forgotten, or is waited for for ever.
    #[test]
    fn a_receiver_that_handles_a_datagram_is_expected_unless_it_does_other_things() {
        for undelivered in [0, 1] {
            for presence in [Presence::Handling, Presence::HandlingSinceBefore] {
                let handling = receiver(presence);
                assert_eq!(standing(undelivered, handling), Standing::Expecting);
                let gone = Receiver { task: GONE, ..handling };
                assert_eq!(standing(undelivered, gone), Standing::Uncertain);
                assert_eq!(look(undelivered, gone).is_gone, undelivered > 0);
                let moved_on = Receiver { has_moved_on: true, ..handling };
                assert_eq!(standing(undelivered, moved_on), Standing::Uncertain);
            }
        }
        let busy = |presence| Receiver { task: BUSY, ..receiver(presence) };
        assert_eq!(standing(0, busy(Presence::HandlingSinceBefore)), Standing::Uncertain);
        assert_eq!(standing(1, busy(Presence::HandlingSinceBefore)), Standing::Expecting);
        assert_eq!(standing(0, busy(Presence::Handling)), Standing::Expecting);
    }

    #[test]
    fn a_receiver_that_has_stopped_waiting_may_come_back() {
        assert_eq!(standing(0, receiver(Presence::Absent)), Standing::Quiescent);
        assert_eq!(standing(1, receiver(Presence::Absent)), Standing::Uncertain);
        assert!(look(1, receiver(Presence::Absent)).is_gone);
        let absent = |task| Receiver { task, ..receiver(Presence::Absent) };
        assert_eq!(standing(1, absent(BUSY)), Standing::Expecting);
        assert_eq!(standing(1, absent(GONE)), Standing::Uncertain);
    }

    /// Fails when an exit waits for nobody, or does not wait for a task that may come.
    #[test]
    fn a_receiver_may_still_come_only_where_somebody_sleeps() {
        for had_any in [false, true] {
            let mut look = Look::default();
            look.take(1, std::iter::empty(), had_any);
            assert_eq!((look.is_gone, look.is_unclaimed), (had_any, !had_any));
            assert_eq!(look.standing(&Survey::default(), 0, 0), Standing::Quiescent);
            let survey = Survey { asleep: 1, ..Survey::default() };
            assert_eq!(look.standing(&survey, 0, 0), Standing::Uncertain);
        }
    }

    /// A task that drains may poll other futures beside its drain. This is not known, unless it has
    /// dropped its receive and does not sleep.
    #[test]
    fn a_task_that_waits_for_the_drain_is_not_waited_for_to_the_deadline() {
        for presence in [Presence::Waiting, Presence::Handling, Presence::HandlingSinceBefore] {
            assert!(look(1, drains(presence)).waits_for_itself);
            assert_eq!(standing(1, drains(presence)), Standing::Uncertain);
        }
        assert_eq!(standing(0, drains(Presence::Waiting)), Standing::Quiescent);
        assert_eq!(standing(0, drains(Presence::HandlingSinceBefore)), Standing::Quiescent);
        assert_eq!(standing(0, drains(Presence::Handling)), Standing::Uncertain);
        assert!(look(1, drains(Presence::Absent)).waits_for_itself);
        assert_eq!(standing(1, drains(Presence::Absent)), Standing::Quiescent);
        let asleep = Receiver { task: BUSY, ..drains(Presence::Absent) };
        assert_eq!(standing(1, asleep), Standing::Uncertain);
    }

    #[test]
    fn work_and_what_is_in_hand_are_uncertain() {
        let look = Look::default();
        let none = Survey::default();
        let asleep = Survey { asleep: 1, ..none };
        assert_eq!(look.standing(&asleep, 0, 0), Standing::Quiescent);
        assert_eq!(look.standing(&none, 1, 0), Standing::Uncertain);
        let at_work = Survey { at_work: 1, ..none };
        let maybe_at_work = Survey { maybe_at_work: 1, ..none };
        for survey in [at_work, maybe_at_work, Survey { behind: 1, ..none }] {
            assert_eq!(look.standing(&survey, 0, 0), Standing::Uncertain, "{survey:?}");
        }
    }

    /// Fails when periodic work restarts the wait each time, or progress does not restart it.
    #[test]
    fn what_is_uncertain_is_waited_for_since_the_last_progress() {
        let quiescence = Quiescence::default();
        let start = Instant::now();
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        let notice = |standing, tenths, delivered, steps| {
            let done = Progress { delivered, steps };
            quiescence.notice(standing, at(tenths), done, &mut Wakes::default());
            quiescence.uncertain_since()
        };
        assert_eq!(notice(Standing::Uncertain, 1, 5, 0), Some(at(1)));
        assert_eq!(notice(Standing::Uncertain, 2, 5, 0), Some(at(1)));
        // Two tenths have passed, and two more in which something else was waited for.
        assert_eq!(notice(Standing::Busy, 3, 5, 0), None);
        assert_eq!(notice(Standing::Busy, 4, 5, 0), None);
        assert_eq!(notice(Standing::Uncertain, 5, 5, 0), Some(at(3)));
        assert_eq!(notice(Standing::Uncertain, 6, 6, 0), Some(at(6)));
        assert_eq!(notice(Standing::Expecting, 7, 6, 0), None);
        assert_eq!(notice(Standing::Uncertain, 8, 6, 0), Some(at(8)));
        // Progress of tasks counts for a while, and then no longer.
        assert_eq!(notice(Standing::Uncertain, 20, 6, 1), Some(at(20)));
        assert_eq!(notice(Standing::Uncertain, 25, 6, 2), Some(at(25)));
        assert!(!quiescence.goes_on());
        assert_eq!(notice(Standing::Uncertain, 29, 6, 3), Some(at(25)));
        assert!(quiescence.goes_on());
        assert_eq!(notice(Standing::Uncertain, 30, 7, 3), Some(at(30)));
        assert_eq!(quiescence.count(), 0);
        notice(Standing::Quiescent, 31, 7, 3);
        assert_eq!(quiescence.count(), 1);
    }
}
