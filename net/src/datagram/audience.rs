//! [`Audience`]: who receives from a socket, as far as the drain wants to know. Pure.
//!
//! ```text
//!            asked, and waits                 handed a datagram
//!   Nobody ------------------> Waiting(task) <-----------------> Away(task)
//!      ^                            |        asked, and waits        |
//!      +---------- told the end ----+--------------------------------+
//! ```
//!
//! A receiver that waits is told the end by the drain itself. One that was handed a datagram is
//! away with it: it may be handling it, and comes back for the end when it is done. A task that has
//! ended does not come back.

use std::cell::{Cell, RefCell};

use ebbtide_runtime::Receivers;
use ebbtide_runtime::task::TaskId;

#[derive(Debug)]
pub(super) struct Audience {
    /// Who asked last. Not among the others.
    last: Cell<TaskId>,
    /// What it does.
    state: Cell<State>,
    /// Others who are away with a datagram.
    others: RefCell<Vec<TaskId>>,
}

/// What the task that asked last does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has asked, or whoever did was told the end.
    Nobody,
    Waiting,
    Away,
}

impl Default for Audience {
    fn default() -> Self {
        let (last, state) = (Cell::new(TaskId::NONE), Cell::new(State::Nobody));
        Self { last, state, others: RefCell::default() }
    }
}

impl Audience {
    /// `task` has asked for a datagram, and waits for it.
    #[inline]
    pub(super) fn asked(&self, task: TaskId) {
        self.comes(task);
        self.state.set(State::Waiting);
    }

    /// `task` was handed a datagram.
    #[inline]
    pub(super) fn handed(&self, task: TaskId) {
        self.comes(task);
        self.state.set(State::Away);
    }

    /// `task` was told the end. Whether it asks again is not known.
    pub(super) fn told_end(&self, task: TaskId) {
        self.others.borrow_mut().retain(|other| *other != task);
        if self.last.get() == task {
            self.state.set(State::Nobody);
        }
    }

    /// `task` is here.
    #[inline]
    fn comes(&self, task: TaskId) {
        if self.last.get() != task {
            self.comes_after_another(task);
        }
    }

    #[inline(never)]
    fn comes_after_another(&self, task: TaskId) {
        let mut others = self.others.borrow_mut();
        others.retain(|other| *other != task);
        let last = self.last.replace(task);
        if self.state.get() == State::Away {
            others.push(last);
        }
    }

    /// Whether nobody receives, of those who still live.
    pub(super) fn is_nobody(&self, is_alive: impl Fn(TaskId) -> bool) -> bool {
        let mut others = self.others.borrow_mut();
        others.retain(|task| is_alive(*task));
        let last_lives = self.state.get() != State::Nobody && is_alive(self.last.get());
        others.is_empty() && !last_lives
    }

    /// What there is still to do, on a socket that is sealed; `waiting`: what its inbox holds.
    pub(super) fn receivers(&self, waiting: usize, is_alive: impl Fn(TaskId) -> bool) -> Receivers {
        let mut others = self.others.borrow_mut();
        others.retain(|task| is_alive(*task));
        let (last, state) = (self.last.get(), self.state.get());
        match (state, others.first()) {
            (State::Away, _) if is_alive(last) => Receivers::Expected(last),
            (State::Waiting, _) if waiting > 0 && is_alive(last) => Receivers::Expected(last),
            (_, Some(task)) if waiting > 0 => Receivers::Expected(*task),
            (_, Some(_)) => Receivers::Away,
            (_, None) if waiting == 0 => Receivers::Served,
            (State::Nobody, None) => Receivers::Unclaimed,
            (State::Waiting | State::Away, None) => Receivers::Gone,
        }
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use ebbtide_runtime::Runtime;

    use super::*;

    /// Ids of `N` tasks.
    fn tasks<const N: usize>() -> [TaskId; N] {
        let runtime = Runtime::new().expect("a runtime starts");
        std::array::from_fn(|_| runtime.block_on(async { TaskId::current() }))
    }

    const ALL: fn(TaskId) -> bool = |_| true;
    const NONE: fn(TaskId) -> bool = |_| false;

    #[test]
    fn datagrams_that_nobody_has_asked_for_are_unclaimed() {
        let audience = Audience::default();
        assert_eq!(audience.receivers(0, ALL), Receivers::Served);
        assert_eq!(audience.receivers(1, ALL), Receivers::Unclaimed);
    }

    #[test]
    fn a_receiver_that_waits_is_expected_only_where_something_waits_for_it() {
        let [task] = tasks();
        let audience = Audience::default();
        audience.asked(task);
        assert_eq!(audience.receivers(0, ALL), Receivers::Served);
        assert_eq!(audience.receivers(1, ALL), Receivers::Expected(task));
        assert_eq!(audience.receivers(1, NONE), Receivers::Gone);
    }

    #[test]
    fn a_receiver_that_is_away_is_expected_back_unless_it_has_ended() {
        let [task] = tasks();
        let audience = Audience::default();
        audience.handed(task);
        assert_eq!(audience.receivers(0, ALL), Receivers::Expected(task));
        assert_eq!(audience.receivers(0, NONE), Receivers::Served);
        audience.asked(task);
        assert_eq!(audience.receivers(0, ALL), Receivers::Served);
        audience.handed(task);
        audience.told_end(task);
        assert_eq!(audience.receivers(0, ALL), Receivers::Served);
        assert_eq!(audience.receivers(1, ALL), Receivers::Unclaimed);
    }

    #[test]
    fn another_receiver_does_not_hide_one_that_is_away() {
        let [first, second] = tasks();
        let audience = Audience::default();
        audience.handed(first);
        audience.asked(second);
        assert_eq!(audience.receivers(0, ALL), Receivers::Away);
        assert_eq!(audience.receivers(1, ALL), Receivers::Expected(second));
        audience.told_end(second);
        assert_eq!(audience.receivers(0, ALL), Receivers::Away);
        assert_eq!(audience.receivers(1, ALL), Receivers::Expected(first));
        audience.asked(first);
        assert_eq!(audience.receivers(0, ALL), Receivers::Served);
    }
}
