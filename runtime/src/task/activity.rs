//! [`Activity`]: what a drain has to know about a task. Pure.
//!
//! A task does not say whether it has work, that is, whether it handles something that was
//! received. The runtime infers it from what the task was handed, what has woken it, and what it
//! waits for:
//!
//! ```text
//!           handed a datagram                   woken by a task with work
//!   Nothing ----------------> Datagram  Nothing -------------------------> Given
//!      ^                          |                spawned by one --> Spawned
//!      +--- waits for the next ---+                got the end --> Ended
//!                                   polled after others were handed some --> Behind
//! ```
//!
//! A task with work passes it to the tasks that it wakes or spawns. A task with work is *at work*
//! while it sleeps. It may also be idle then, which cannot be distinguished.

use std::time::{Duration, Instant};

use super::current::TaskId;

/// After this many wakes by timers and other tasks, a receiver is unlikely to be still handling a
/// datagram that it was handed before them.
const MANY_WAKES: u8 = 32;

/// [`MANY_WAKES`], if no more datagrams wait for the receiver.
const SOME_WAKES: u8 = 4;

/// A task that was spawned for a datagram longer than this before a drain is assumed to run for
/// ever.
const SPAWNED_RECENTLY: Duration = Duration::from_secs(2);

/// A receiver that was handed its last datagram longer than this before a drain is assumed to be
/// done with it. It is the default deadline of a drain.
const HANDED_RECENTLY: Duration = Duration::from_secs(10);

/// Why a task became ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A completion, another thread, or the task itself.
    #[default]
    Outside,
    /// A drain that the task waits for.
    Drain,
    Timer,
    /// Another task, without work.
    IdleTask,
    /// Another task, which may have work.
    BehindTask,
    /// Another task, with work.
    WorkingTask,
}

/// What a socket reports to a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No datagram: the receiver waits.
    Nothing,
    /// A datagram was handed to the receiver.
    Datagram,
    /// The end: no more datagrams will come.
    End,
}

/// The work of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Work {
    #[default]
    Nothing,
    /// The task was spawned for it. No other task has woken it since, so it does not wait for a
    /// queue.
    Spawned,
    /// A task with work has woken it.
    Given,
    /// Nobody has woken it, but datagrams were handed out since it was polled before. It may have
    /// found what others have left for it.
    Behind,
    Datagram,
    /// It got the end, and may still be finishing.
    Ended,
    /// It got the end, and has asked again.
    EndedAgain,
}

/// What is known of a task.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Activity {
    work: Work,
    /// How many sleeps and how many ticks of intervals it waits for.
    sleeps: u32,
    ticks: u32,
    /// How often timers and other tasks have woken it since it got its work.
    timer_wakes: u8,
    task_wakes: u8,
    /// How often it was polled.
    polls: u32,
    /// How many datagrams had been handed out when it was polled last, or spawned.
    handed_out_before: u32,
    /// The number of the last datagram that it was handed, counting all that were handed out.
    last_handed: u32,
    /// When its work began: when it was spawned, or was handed a datagram.
    since: Option<Instant>,
    /// When the sleep ends that it began last.
    sleeps_until: Option<Instant>,
    /// The task that polled for its result, and in which of its polls.
    awaited: Option<(TaskId, u32)>,
}

impl Activity {
    /// For a task that is spawned during the poll of a task that wakes others because of `cause`,
    /// after `handed_out` datagrams. `now` is called only if it has work.
    pub(super) fn spawned(cause: Cause, handed_out: u32, now: impl FnOnce() -> Instant) -> Self {
        let handed_out_before = handed_out;
        let (work, since) = match cause {
            Cause::WorkingTask => (Work::Spawned, Some(now())),
            Cause::BehindTask => (Work::Behind, None),
            _ => (Work::Nothing, None),
        };
        Self { work, handed_out_before, since, ..Self::default() }
    }

    /// It is polled next, because of `cause`, after `handed_out` datagrams. Returns the cause with
    /// which it wakes others meanwhile.
    #[inline]
    pub(super) fn polled(&mut self, cause: Cause, handed_out: u32, is_draining: bool) -> Cause {
        if handed_out != self.handed_out_before {
            self.polled_after_others(cause, is_draining);
        } else if self.work == Work::Behind && self.timer_wakes >= MANY_WAKES {
            self.work = Work::Nothing;
        }
        self.polls = self.polls.wrapping_add(1);
        self.handed_out_before = handed_out;
        match cause {
            Cause::Outside | Cause::Drain => {}
            Cause::Timer => self.timer_wakes = self.timer_wakes.saturating_add(1),
            Cause::IdleTask | Cause::BehindTask | Cause::WorkingTask => self.woken_by_task(cause),
        }
        match self.work {
            Work::Nothing => Cause::IdleTask,
            Work::Behind => Cause::BehindTask,
            _ => Cause::WorkingTask,
        }
    }

    /// Others were handed datagrams since it was polled before. They may have filled its queue
    /// before it could wait for it, or left something for its next tick.
    fn polled_after_others(&mut self, cause: Cause, is_draining: bool) {
        let looks_by_itself = matches!(cause, Cause::Outside | Cause::Timer);
        if self.work == Work::Nothing && looks_by_itself && self.task_wakes == 0 {
            let is_first = self.polls == 0;
            self.begin(if is_first && is_draining { Work::Given } else { Work::Behind });
        }
    }

    /// Whether it works on what others have received, or is finishing after the end.
    #[inline]
    pub(super) fn works_on(&self) -> bool {
        matches!(self.work, Work::Spawned | Work::Given | Work::Ended)
    }

    /// Whether it is finishing after the end, and wakes by its own timers are still part of that.
    #[inline]
    pub(super) fn is_finishing(&self) -> bool {
        self.work == Work::Ended && self.timer_wakes < MANY_WAKES
    }

    /// It waits for the result of a task that had work, and that has ended.
    pub(super) fn joins_work(&mut self) {
        if matches!(self.work, Work::Nothing | Work::Behind) {
            self.begin(Work::Given);
        }
    }

    /// Whether it has work that is more than a guess.
    pub(super) fn has_certain_work(&self) -> bool {
        !matches!(self.work, Work::Nothing | Work::Behind)
    }

    /// Whether it has work, as far as is known.
    pub(super) fn has_work(&self) -> bool {
        self.work != Work::Nothing
    }

    fn woken_by_task(&mut self, cause: Cause) {
        self.task_wakes = self.task_wakes.saturating_add(1);
        match self.work {
            Work::Nothing | Work::Behind if cause == Cause::WorkingTask => self.begin(Work::Given),
            Work::Ended | Work::EndedAgain if cause == Cause::WorkingTask => {
                self.begin(Work::Given);
            }
            Work::Nothing if cause == Cause::BehindTask => self.begin(Work::Behind),
            Work::Spawned => self.work = Work::Given,
            _ => {}
        }
    }

    /// In the poll that has ended, this was the last datagram that it was handed.
    #[inline]
    pub(super) fn handed(&mut self, last: u32) {
        self.last_handed = last;
    }

    /// In the poll that has ended, this was the last report of a socket to it.
    #[inline]
    pub(super) fn answered(&mut self, answer: Answer, now: impl FnOnce() -> Instant) {
        match (answer, self.work) {
            // Work that others have given it is not done because it looks for datagrams, too.
            (Answer::Nothing, Work::Given | Work::Spawned) => {}
            (Answer::Nothing, _) => self.begin(Work::Nothing),
            (Answer::Datagram, _) => {
                self.begin(Work::Datagram);
                self.since = Some(now());
            }
            (Answer::End, Work::Ended | Work::EndedAgain) => self.work = Work::EndedAgain,
            (Answer::End, _) => self.begin(Work::Ended),
        }
    }

    /// A poll has returned `Pending`.
    #[inline]
    pub(super) fn waits(&mut self) {
        if self.work == Work::Behind && self.ticks > 0 && self.sleeps == 0 {
            self.work = Work::Nothing;
        }
    }

    fn begin(&mut self, work: Work) {
        (self.work, self.timer_wakes, self.task_wakes) = (work, 0, 0);
    }

    pub(super) fn sleep_begins(&mut self, until: Instant) {
        self.sleeps += 1;
        self.sleeps_until = Some(until);
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

    /// Whether it waits for a time, and was not polled since `handed_out` datagrams were handed
    /// out. It may look then for what others have left for it.
    pub(super) fn is_behind(&self, handed_out: u32) -> bool {
        self.sleeps + self.ticks > 0 && self.handed_out_before != handed_out
    }

    /// `task` polls for its result, in its poll number `poll`.
    pub(super) fn awaited_by(&mut self, task: TaskId, poll: u32) {
        self.awaited = Some((task, poll));
    }

    /// The task that awaits it and the poll in which it did. It no longer awaits it if it was
    /// polled since.
    pub(super) fn awaited(&self) -> Option<(TaskId, u32)> {
        self.awaited
    }

    pub(super) fn polls(&self) -> u32 {
        self.polls
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.sleeps > 0
    }

    /// Whether it is in the middle of its work, at a drain that began at `start`. `is_setup`: it
    /// was spawned as a part of the program, not for work.
    pub(super) fn is_at_work(&self, is_setup: bool, start: Instant) -> bool {
        match self.work {
            Work::Nothing | Work::Behind | Work::EndedAgain => false,
            // What waits for a tick, or goes on after its own timers, is periodic, or has to sleep.
            Work::Spawned if self.ticks > 0 => false,
            Work::Spawned if self.timer_wakes > 1 => self.is_asleep(),
            Work::Spawned if !self.is_since(start, SPAWNED_RECENTLY) => self.is_asleep(),
            Work::Spawned => !is_setup,
            Work::Given | Work::Datagram | Work::Ended => self.is_asleep(),
        }
    }

    /// Whether it may have work. A task that was given work waits for more, or for something
    /// outside that the work needs. A task that got the end goes on.
    pub(super) fn may_be_at_work(&self) -> bool {
        matches!(self.work, Work::Given | Work::Behind | Work::Ended | Work::EndedAgain)
    }

    /// Whether its work began at most `before` before `start`.
    fn is_since(&self, start: Instant, before: Duration) -> bool {
        self.since.is_none_or(|since| since + before >= start)
    }

    /// Whether it is probably done with its last datagram, which it was handed before a drain that
    /// began at `start` and ends at `end`. That is so if a timer has woken it since, or tasks have
    /// many times; if it waits for a tick, or for a sleep that outlasts the drain; or if it was
    /// long ago.
    pub(super) fn does_other_things(&self, start: Instant, end: Instant) -> bool {
        let outlasts = self.is_asleep() && self.sleeps_until.is_some_and(|until| until > end);
        let has_gone_on = self.timer_wakes > 0 || self.wakes() >= SOME_WAKES;
        has_gone_on || self.ticks > 0 || outlasts || !self.is_since(start, HANDED_RECENTLY)
    }

    /// Whether it was woken so often that it probably does not come back.
    pub(super) fn has_stopped_receiving(&self) -> bool {
        self.wakes() >= MANY_WAKES
    }

    /// The number of the last datagram that it was handed, counting all that were handed out.
    pub(super) fn last_handed(&self) -> u32 {
        self.last_handed
    }

    fn wakes(&self) -> u8 {
        self.timer_wakes.saturating_add(self.task_wakes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawned(cause: Cause) -> Activity {
        Activity::spawned(cause, 0, Instant::now)
    }

    impl Activity {
        fn is_polled(&mut self, cause: Cause) -> Cause {
            self.polled(cause, 0, false)
        }

        fn is_answered(&mut self, answer: Answer) {
            self.answered(answer, Instant::now);
        }

        fn sleeps(&mut self) {
            self.sleep_begins(Instant::now());
        }

        fn works(&self) -> bool {
            self.is_at_work(false, Instant::now())
        }
    }

    fn handed() -> Activity {
        let mut activity = Activity::default();
        activity.is_polled(Cause::Outside);
        activity.is_answered(Answer::Datagram);
        activity
    }

    #[test]
    fn work_is_handed_on_by_wakes_and_by_spawning() {
        for answer in [Answer::Datagram, Answer::End] {
            let mut receiver = Activity::default();
            receiver.is_answered(answer);
            let cause = receiver.is_polled(Cause::Outside);
            assert_eq!(cause, Cause::WorkingTask, "{answer:?}");
            let mut worker = Activity::default();
            worker.is_polled(cause);
            assert!(!worker.works() && worker.may_be_at_work(), "the worker waits for no sleep");
            worker.sleeps();
            assert!(worker.works());
            assert_eq!(worker.is_polled(Cause::Timer), Cause::WorkingTask);
            assert!(worker.works(), "the worker has more in its queue");
            assert!(spawned(cause).works());
            assert!(!spawned(cause).is_at_work(true, Instant::now()));
        }
        assert!(!spawned(Cause::IdleTask).works());
    }

    #[test]
    fn who_awaits_a_task_with_work_gets_it() {
        let mut joins = Activity::default();
        joins.joins_work();
        assert!(joins.may_be_at_work());
        joins.sleeps();
        assert!(joins.works());
    }

    #[test]
    fn what_only_ticks_is_not_at_work() {
        let mut periodic = Activity::default();
        for cause in [Cause::Outside, Cause::Timer, Cause::IdleTask, Cause::Timer] {
            assert_eq!(periodic.is_polled(cause), Cause::IdleTask);
        }
        periodic.sleeps();
        assert!(!periodic.works());
    }

    /// A heartbeat that is spawned for a registration.
    #[test]
    fn what_was_spawned_and_ticks_is_not_at_work() {
        let mut heartbeat = spawned(Cause::WorkingTask);
        heartbeat.tick_begins();
        assert!(!heartbeat.works());
        let mut session = spawned(Cause::WorkingTask);
        session.since = session.since.map(|since| since - 2 * SPAWNED_RECENTLY);
        assert!(!session.works(), "the session waits for its peer");
    }

    /// A writer that flushes at each tick what others have left.
    #[test]
    fn what_ticks_is_behind_until_its_next_tick() {
        let mut periodic = Activity::default();
        periodic.polled(Cause::Outside, 3, false);
        assert!(!periodic.is_behind(4), "the task does not wait for a time");
        periodic.tick_begins();
        assert!(periodic.is_behind(4) && !periodic.is_behind(3));
        periodic.tick_ends();
        assert_eq!(periodic.polled(Cause::Timer, 4, false), Cause::BehindTask);
        periodic.waits();
        assert!(periodic.may_be_at_work(), "the task writes");
        periodic.polled(Cause::Outside, 4, false);
        periodic.tick_begins();
        periodic.waits();
        assert!(!periodic.may_be_at_work());
    }

    #[test]
    fn a_receiver_that_waits_has_nothing_in_hand() {
        let mut receiver = handed();
        receiver.sleeps();
        assert!(receiver.works());
        receiver.is_answered(Answer::Nothing);
        assert!(!receiver.works());
    }

    /// An actor that selects between a socket and a queue.
    #[test]
    fn what_others_have_given_is_not_done_because_no_datagram_is_there() {
        let mut actor = Activity::default();
        actor.is_polled(Cause::WorkingTask);
        actor.is_answered(Answer::Nothing);
        assert!(actor.may_be_at_work());
    }

    #[test]
    fn a_queue_may_be_filled_before_its_worker_runs() {
        for is_draining in [false, true] {
            let mut worker = Activity::spawned(Cause::Outside, 5, Instant::now);
            let cause = worker.polled(Cause::Outside, 6, is_draining);
            assert_eq!(cause == Cause::WorkingTask, is_draining);
            let mut given = spawned(cause);
            given.is_polled(Cause::Outside);
            assert_eq!(
                given.works(),
                is_draining,
                "in a drain, possible work is handed on as work"
            );
            worker.sleeps();
            assert!(worker.may_be_at_work());
            assert_eq!(worker.works(), is_draining);
        }
        let mut periodic = Activity::spawned(Cause::Outside, 5, Instant::now);
        assert_eq!(periodic.polled(Cause::Outside, 5, true), Cause::IdleTask);
    }

    /// A task that was spawned for something waits for that. Once others wake it, it has a queue.
    #[test]
    fn a_task_that_others_wake_waits_for_them() {
        let mut session = spawned(Cause::WorkingTask);
        session.is_polled(Cause::Outside);
        assert!(session.works());
        session.is_polled(Cause::WorkingTask);
        assert!(!session.works() && session.may_be_at_work());
        session.sleeps();
        assert!(session.works());
    }

    #[test]
    fn sleeps_after_the_end_are_a_part_of_it_unless_it_is_asked_for_again() {
        let mut finishing = Activity::default();
        finishing.is_answered(Answer::End);
        finishing.sleeps();
        finishing.is_polled(Cause::Timer);
        assert!(finishing.works() && finishing.works_on());
        finishing.is_answered(Answer::End);
        assert!(!finishing.works() && !finishing.works_on());
        assert!(finishing.may_be_at_work());
    }

    #[test]
    fn a_receiver_that_others_keep_busy_does_not_come_back() {
        let now = Instant::now();
        let end = now + Duration::from_secs(10);
        let does_other_things = |receiver: &Activity| receiver.does_other_things(now, end);
        let mut receiver = handed();
        assert!(!does_other_things(&receiver));
        receiver.is_polled(Cause::Timer);
        assert!(does_other_things(&receiver) && !receiver.has_stopped_receiving());
        for _ in 1..MANY_WAKES {
            receiver.is_polled(Cause::IdleTask);
        }
        assert!(receiver.has_stopped_receiving());
        receiver.is_answered(Answer::Datagram);
        assert!(!does_other_things(&receiver));
    }

    #[test]
    fn a_receiver_that_waits_for_what_outlasts_the_drain_does_not_come_back() {
        let start = Instant::now();
        let end = start + Duration::from_secs(10);
        let mut ticks = handed();
        ticks.tick_begins();
        assert!(ticks.does_other_things(start, end));
        for (until, outlasts) in [(end, false), (end + HANDED_RECENTLY, true)] {
            let mut sleeps = handed();
            sleeps.sleep_begins(until);
            assert_eq!(sleeps.does_other_things(start, end), outlasts);
        }
        let mut long_ago = handed();
        long_ago.since = long_ago.since.map(|since| since - 2 * HANDED_RECENTLY);
        assert!(long_ago.does_other_things(start, end));
    }
}
