//! [`Activity`]: what a drain wants to know of a task. Pure.
//!
//! Whether a task has work in hand, nobody says. What can be seen is what it was handed, who woke it,
//! and what it waits for:
//!
//! ```text
//!           handed a datagram                   woken by a task with work
//!   Nothing ----------------> Datagram  Nothing -------------------------> Given
//!      ^                          |                spawned by one --> Spawned
//!      +--- waits for the next ---+                told the end --> Ended
//! ```
//!
//! A task with work in hand hands it on to those whom it wakes, and to those whom it spawns, as far as
//! can be known. It is *at work* while it sleeps: its sleep is a part of that work, or it is idle, which
//! cannot be told apart.

use super::current::TaskId;

/// So many wakes by timers and by other tasks make it unlikely that a receiver is still at what it was
/// handed before the first of them.
const MANY_WAKES: u8 = 4;

/// Why a task became ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A completion, another thread, or the task itself.
    #[default]
    Outside,
    /// A drain that the task waits for.
    Drain,
    Timer,
    /// Another task, which has no work in hand.
    IdleTask,
    /// Another task, which has.
    WorkingTask,
}

/// What a receiver was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing: it waits.
    Nothing,
    /// It was handed a datagram.
    Datagram,
    /// That nothing comes any more.
    End,
}

/// What a task has in hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Work {
    #[default]
    Nothing,
    /// What it was spawned for. No other task has woken it since, so that it waits for no queue.
    Spawned,
    /// A task with work has woken it.
    Given,
    Datagram,
    /// It was told the end, and may still be finishing.
    Ended,
}

/// What is known of a task.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Activity {
    work: Work,
    /// How many sleeps, and how many ticks of intervals, it waits for.
    sleeps: u32,
    ticks: u32,
    /// How often timers and other tasks have woken it since it got its work.
    timer_wakes: u8,
    task_wakes: u8,
    /// How often it was polled.
    polls: u32,
    /// How many datagrams had been handed out when it was polled last, or spawned.
    handed_out_before: u32,
    /// The task that polled for its result, and at which of its polls.
    awaited: Option<(TaskId, u32)>,
}

impl Activity {
    /// A task is spawned while a task polls that would wake others by `cause`, after so many datagrams
    /// were handed out.
    pub(super) fn spawned(cause: Cause, handed_out: u32) -> Self {
        let work = if cause == Cause::WorkingTask { Work::Spawned } else { Work::Nothing };
        Self { work, handed_out_before: handed_out, ..Self::default() }
    }

    /// It is to be polled, because of `cause`, after so many datagrams were handed out. Returns by what it
    /// wakes others meanwhile.
    #[inline]
    pub(super) fn polled(&mut self, cause: Cause, handed_out: u32) -> Cause {
        if self.polls == 0 && self.work == Work::Nothing && handed_out != self.handed_out_before {
            // Its queue may have been filled before it could wait for it.
            self.work = Work::Given;
        }
        self.polls = self.polls.wrapping_add(1);
        self.handed_out_before = handed_out;
        match cause {
            Cause::Outside | Cause::Drain => {}
            Cause::Timer => self.timer_wakes = self.timer_wakes.saturating_add(1),
            Cause::IdleTask | Cause::WorkingTask => self.woken_by_task(cause),
        }
        match self.work {
            Work::Nothing | Work::Ended => Cause::IdleTask,
            Work::Spawned | Work::Given | Work::Datagram => Cause::WorkingTask,
        }
    }

    /// Whether it works on what others have received.
    #[inline]
    pub(super) fn works_for_others(&self) -> bool {
        matches!(self.work, Work::Spawned | Work::Given)
    }

    fn woken_by_task(&mut self, cause: Cause) {
        self.task_wakes = self.task_wakes.saturating_add(1);
        match self.work {
            Work::Nothing | Work::Ended if cause == Cause::WorkingTask => self.begin(Work::Given),
            Work::Spawned => self.work = Work::Given,
            Work::Nothing | Work::Given | Work::Datagram | Work::Ended => {}
        }
    }

    /// What it was told last in a poll that has ended.
    #[inline]
    pub(super) fn told(&mut self, told: Told) {
        match told {
            Told::Nothing => self.begin(Work::Nothing),
            Told::Datagram => self.begin(Work::Datagram),
            // Who asks again and again is told so each time.
            Told::End if self.work == Work::Ended => {}
            Told::End => self.begin(Work::Ended),
        }
    }

    fn begin(&mut self, work: Work) {
        (self.work, self.timer_wakes, self.task_wakes) = (work, 0, 0);
    }

    pub(super) fn sleep_begins(&mut self) {
        self.sleeps += 1;
    }

    pub(super) fn sleep_ends(&mut self) {
        self.sleeps -= 1;
    }

    pub(super) fn tick_begins(&mut self) {
        self.ticks += 1;
    }

    pub(super) fn tick_ends(&mut self) {
        self.ticks -= 1;
    }

    /// Whether it waits for a time, and has not been polled since the last of so many datagrams was
    /// handed out. It may look then at what others have left for it.
    pub(super) fn is_behind(&self, handed_out: u32) -> bool {
        self.sleeps + self.ticks > 0 && self.handed_out_before != handed_out
    }

    /// `task` polls for its result, in its poll number `poll`.
    pub(super) fn awaited_by(&mut self, task: TaskId, poll: u32) {
        self.awaited = Some((task, poll));
    }

    /// Who awaits it, if that task has not been polled since.
    pub(super) fn awaited(&self) -> Option<(TaskId, u32)> {
        self.awaited
    }

    pub(super) fn polls(&self) -> u32 {
        self.polls
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.sleeps > 0
    }

    /// Whether it has work in hand, and is in the middle of it. `is_setup`: what it was spawned for is no
    /// such work.
    pub(super) fn is_at_work(&self, is_setup: bool) -> bool {
        match self.work {
            Work::Nothing => false,
            Work::Spawned => !is_setup,
            Work::Given | Work::Datagram => self.is_asleep(),
            // One sleep may be a part of the end; more of them are periodic.
            Work::Ended => self.is_asleep() && self.timer_wakes == 0,
        }
    }

    /// Whether it may have work in hand. One that was given some waits for more of it, or for something
    /// outside that the work needs. One that was told the end goes on.
    pub(super) fn may_be_at_work(&self) -> bool {
        matches!(self.work, Work::Given | Work::Ended)
    }

    /// Whether a timer has woken it since it got its work, or tasks have many times: what it was handed
    /// before a drain it has handled long ago.
    pub(super) fn does_other_things(&self) -> bool {
        self.timer_wakes > 0 || self.wakes() >= MANY_WAKES
    }

    /// The same, for what it was handed during the drain, or where more waits for it.
    pub(super) fn has_stopped_receiving(&self) -> bool {
        self.wakes() >= MANY_WAKES
    }

    fn wakes(&self) -> u8 {
        self.timer_wakes.saturating_add(self.task_wakes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed() -> Activity {
        let mut activity = Activity::default();
        activity.polled(Cause::Outside, 0);
        activity.told(Told::Datagram);
        activity
    }

    #[test]
    fn work_is_handed_on_by_wakes_and_by_spawning() {
        let mut receiver = handed();
        let cause = receiver.polled(Cause::Outside, 0);
        assert_eq!(cause, Cause::WorkingTask);
        let mut worker = Activity::default();
        worker.polled(cause, 0);
        assert!(!worker.is_at_work(false) && worker.may_be_at_work(), "it waits for no sleep");
        worker.sleep_begins();
        assert!(worker.is_at_work(false));
        assert_eq!(worker.polled(Cause::Timer, 0), Cause::WorkingTask);
        assert!(worker.is_at_work(false), "the next in its queue");
        assert!(Activity::spawned(cause, 0).is_at_work(false));
        assert!(!Activity::spawned(cause, 0).is_at_work(true));
        assert!(!Activity::spawned(Cause::IdleTask, 0).is_at_work(false));
    }

    #[test]
    fn what_only_ticks_is_not_at_work() {
        let mut periodic = Activity::default();
        for cause in [Cause::Outside, Cause::Timer, Cause::IdleTask, Cause::Timer] {
            assert_eq!(periodic.polled(cause, 0), Cause::IdleTask);
        }
        periodic.sleep_begins();
        assert!(!periodic.is_at_work(false));
    }

    /// As a writer that flushes at each tick what others have put down.
    #[test]
    fn what_ticks_is_behind_until_its_next_tick() {
        let mut periodic = Activity::default();
        periodic.polled(Cause::Outside, 3);
        assert!(!periodic.is_behind(4), "it does not wait for a time");
        periodic.tick_begins();
        assert!(periodic.is_behind(4) && !periodic.is_behind(3));
        periodic.polled(Cause::Timer, 4);
        assert!(!periodic.is_behind(4));
    }

    #[test]
    fn a_receiver_that_waits_has_nothing_in_hand() {
        let mut receiver = handed();
        receiver.sleep_begins();
        assert!(receiver.is_at_work(false));
        receiver.told(Told::Nothing);
        assert!(!receiver.is_at_work(false));
    }

    #[test]
    fn a_queue_may_be_filled_before_its_worker_runs() {
        let mut worker = Activity::spawned(Cause::Outside, 5);
        assert_eq!(worker.polled(Cause::Outside, 6), Cause::WorkingTask);
        let mut periodic = Activity::spawned(Cause::Outside, 5);
        assert_eq!(periodic.polled(Cause::Outside, 5), Cause::IdleTask);
        assert_eq!(periodic.polled(Cause::Outside, 6), Cause::IdleTask);
    }

    /// A task that was spawned for something waits for that; once others wake it, it has a queue.
    #[test]
    fn a_task_that_others_wake_waits_for_them() {
        let mut session = Activity::spawned(Cause::WorkingTask, 0);
        session.polled(Cause::Outside, 0);
        assert!(session.is_at_work(false));
        session.polled(Cause::WorkingTask, 0);
        assert!(!session.is_at_work(false) && session.may_be_at_work());
        session.sleep_begins();
        assert!(session.is_at_work(false));
    }

    #[test]
    fn one_sleep_after_the_end_is_a_part_of_it_and_more_are_not() {
        let mut finishing = Activity::default();
        finishing.told(Told::End);
        finishing.sleep_begins();
        assert!(finishing.is_at_work(false));
        finishing.polled(Cause::Timer, 0);
        finishing.told(Told::End);
        assert!(!finishing.is_at_work(false));
        assert!(finishing.may_be_at_work());
    }

    #[test]
    fn a_receiver_that_others_keep_busy_does_not_come_back() {
        let mut receiver = handed();
        assert!(!receiver.does_other_things());
        receiver.polled(Cause::Timer, 0);
        assert!(receiver.does_other_things() && !receiver.has_stopped_receiving());
        for _ in 1..MANY_WAKES {
            receiver.polled(Cause::IdleTask, 0);
        }
        assert!(receiver.has_stopped_receiving());
        receiver.told(Told::Datagram);
        assert!(!receiver.does_other_things());
    }
}
