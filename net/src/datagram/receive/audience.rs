//! [`Audience`]: who receives from a socket, for the drain. Pure.
//!
//! ```text
//!              waits                handed a datagram
//!   (nobody) --------> Waiting(member) <----------> Handling(member)
//!      ^                |        ^      waits again      |
//!      |   its future   v        |                       |
//!      |   is dropped  Absent ---+                       |
//!      +------------------------ told the end -----------+
//! ```
//!
//! A member is a place that receives: a task, or one of several futures in it that have separate
//! wakers (`FuturesUnordered`).
//!
//! A member that waits is told the end by the drain. One that was handed a datagram may be
//! handling it, and comes back for the end when it is done. One whose future was
//! dropped while it waited may come back, too.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::task::Waker;

use ebbtide_runtime::task::TaskId;
use ebbtide_runtime::{Presence, Receivers};

/// At this number of members, those that have ended are removed.
const MANY: usize = 64;

/// One place that receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    task: TaskId,
    /// Identifies the waker with which it is polled. 0 if it asked without one.
    waker: usize,
}

impl Member {
    /// The member that is being polled with `waker`.
    #[inline]
    pub(super) fn polled_with(waker: &Waker) -> Self {
        Self { task: TaskId::current(), waker: address(waker) }
    }

    /// The task that is being polled, as a whole.
    pub(super) fn task() -> Self {
        Self { task: TaskId::current(), waker: 0 }
    }
}

/// What distinguishes wakers.
#[inline]
fn address(waker: &Waker) -> usize {
    waker.data().addr()
}

#[derive(Debug)]
pub(super) struct Audience {
    /// The member that came last. It is not in `others`.
    last: Cell<Member>,
    /// What the last member does. `None` if no member has come, or if it was told the end.
    presence: Cell<Option<Presence>>,
    /// The number of the last datagram that it was handed, as the runtime counts them.
    last_handed: Cell<u32>,
    others: RefCell<HashMap<Member, (Presence, u32)>>,
    /// At this number of other members, those that have ended are removed.
    many: Cell<usize>,
    /// True once a member that had ended was removed.
    has_forgotten: Cell<bool>,
}

impl Default for Audience {
    fn default() -> Self {
        Self {
            last: Cell::new(Member { task: TaskId::NONE, waker: 0 }),
            presence: Cell::new(None),
            last_handed: Cell::new(0),
            others: RefCell::default(),
            many: Cell::new(MANY),
            has_forgotten: Cell::new(false),
        }
    }
}

impl Audience {
    /// `member` has come, and waits for a datagram.
    #[inline]
    pub(super) fn waits(&self, member: Member, is_alive: impl Fn(TaskId) -> bool) {
        self.comes(member, Presence::Waiting, is_alive);
    }

    /// `member` has come, found nothing, and does not wait.
    pub(super) fn looked(&self, member: Member, is_alive: impl Fn(TaskId) -> bool) {
        self.comes(member, Presence::Absent, is_alive);
    }

    /// `member` has come, and was handed a datagram: number `last`, as the runtime counts them.
    #[inline]
    pub(super) fn handed(&self, member: Member, last: u32, is_alive: impl Fn(TaskId) -> bool) {
        self.comes(member, Presence::Handling, is_alive);
        self.last_handed.set(last);
    }

    #[inline]
    fn comes(&self, member: Member, presence: Presence, is_alive: impl Fn(TaskId) -> bool) {
        if self.last.get() != member {
            self.comes_after_another(member, is_alive);
        }
        self.presence.set(Some(presence));
    }

    #[inline(never)]
    fn comes_after_another(&self, member: Member, is_alive: impl Fn(TaskId) -> bool) {
        let mut others = self.others.borrow_mut();
        others.remove(&member);
        // The same task may have asked without a waker before.
        others.remove(&Member { waker: 0, ..member });
        let last = self.last.replace(member);
        let is_the_same = last.task == member.task && last.waker == 0;
        if let Some(presence) = self.presence.get()
            && !is_the_same
        {
            others.insert(last, (presence, self.last_handed.get()));
        }
        if others.len() >= self.many.get() {
            let before = others.len();
            others.retain(|member, _| is_alive(member.task));
            self.has_forgotten.set(self.has_forgotten.get() || others.len() < before);
            self.many.set(others.len().saturating_mul(2).max(MANY));
        }
    }

    /// `member` was told the end. Whether it asks again is not known.
    pub(super) fn told_end(&self, member: Member) {
        let mut others = self.others.borrow_mut();
        let is_answered = |other: Member| match member.waker {
            // All members of the task.
            0 => other.task == member.task,
            _ => other == member || other == Member { waker: 0, ..member },
        };
        others.retain(|other, _| !is_answered(*other));
        if is_answered(self.last.get()) {
            self.presence.set(None);
        }
    }

    /// The future that waited with this waker was dropped.
    pub(super) fn stops_waiting(&self, waker: &Waker) {
        self.stop_waiting_at(address(waker));
    }

    fn stop_waiting_at(&self, address: usize) {
        if self.last.get().waker == address {
            if self.presence.get() == Some(Presence::Waiting) {
                self.presence.set(Some(Presence::Absent));
            }
            return;
        }
        for (member, (presence, _)) in self.others.borrow_mut().iter_mut() {
            if member.waker == address && *presence == Presence::Waiting {
                *presence = Presence::Absent;
            }
        }
    }

    /// The socket is sealed. Members that handle a datagram were handed their datagram before the seal.
    pub(super) fn sealed(&self) {
        let before = |presence| match presence {
            Presence::Handling => Presence::HandlingSinceBefore,
            other => other,
        };
        self.presence.set(self.presence.get().map(before));
        self.others
            .borrow_mut()
            .values_mut()
            .for_each(|(presence, _)| *presence = before(*presence));
    }

    /// Whether nobody has asked for a datagram, or all who did were told the end.
    pub(super) fn nobody_has_come(&self) -> bool {
        self.presence.get().is_none() && self.others.borrow().is_empty()
    }

    /// Whether no task receives that is still alive.
    pub(super) fn is_nobody(&self, is_alive: impl Fn(TaskId) -> bool) -> bool {
        !self.members().iter().any(|(member, _)| is_alive(member.task))
    }

    fn members(&self) -> Vec<(Member, (Presence, u32))> {
        let others = self.others.borrow();
        let last = self.presence.get().map(|presence| (presence, self.last_handed.get()));
        let last = last.map(|state| (self.last.get(), state));
        others.iter().map(|(member, state)| (*member, *state)).chain(last).collect()
    }

    /// The receivers, for the drain.
    pub(super) fn receivers(&self) -> Receivers {
        let member = |(member, (presence, last_handed)): &(Member, (Presence, u32))| {
            ebbtide_runtime::Member {
                task: member.task,
                presence: *presence,
                last_handed: *last_handed,
            }
        };
        Receivers {
            members: self.members().iter().map(member).collect(),
            has_forgotten: self.has_forgotten.get(),
        }
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use ebbtide_runtime::Runtime;

    use super::*;

    /// `N` members, each in a task of its own.
    fn members<const N: usize>() -> [Member; N] {
        let runtime = Runtime::new().expect("a runtime starts");
        std::array::from_fn(|waker| {
            let task = runtime.block_on(async { TaskId::current() });
            Member { task, waker: waker + 1 }
        })
    }

    const ALL: fn(TaskId) -> bool = |_| true;

    /// What each does, in the order of `members`.
    fn presences<const N: usize>(
        audience: &Audience,
        members: [Member; N],
    ) -> [Option<Presence>; N] {
        let all: HashMap<Member, _> = audience.members().into_iter().collect();
        members.map(|member| all.get(&member).map(|(presence, _)| *presence))
    }

    #[test]
    fn a_member_waits_handles_and_is_told_the_end() {
        let [one] = members();
        let audience = Audience::default();
        assert!(audience.is_nobody(ALL));
        audience.waits(one, ALL);
        assert_eq!(presences(&audience, [one]), [Some(Presence::Waiting)]);
        audience.handed(one, 1, ALL);
        assert_eq!(presences(&audience, [one]), [Some(Presence::Handling)]);
        assert!(!audience.is_nobody(ALL) && audience.is_nobody(|_| false));
        audience.sealed();
        assert_eq!(presences(&audience, [one]), [Some(Presence::HandlingSinceBefore)]);
        audience.told_end(one);
        assert!(audience.is_nobody(ALL));
    }

    #[test]
    fn nobody_hides_another() {
        let [first, second] = members();
        let audience = Audience::default();
        audience.handed(first, 1, ALL);
        audience.waits(second, ALL);
        let both = [first, second];
        assert_eq!(presences(&audience, both), [Some(Presence::Handling), Some(Presence::Waiting)]);
        audience.told_end(second);
        assert_eq!(presences(&audience, both), [Some(Presence::Handling), None]);
        audience.waits(first, ALL);
        assert_eq!(presences(&audience, both), [Some(Presence::Waiting), None]);
    }

    /// Futures of one task that have separate wakers.
    #[test]
    fn the_parts_of_a_task_are_told_apart() {
        let [one, other] = members();
        let (a, b) = (one, Member { task: one.task, ..other });
        let audience = Audience::default();
        audience.handed(a, 1, ALL);
        audience.waits(b, ALL);
        assert_eq!(
            presences(&audience, [a, b]),
            [Some(Presence::Handling), Some(Presence::Waiting)]
        );
    }

    #[test]
    fn a_task_that_asked_without_a_waker_is_not_another() {
        let [one] = members();
        let asked = Member { waker: 0, ..one };
        let audience = Audience::default();
        audience.handed(asked, 1, ALL);
        audience.waits(one, ALL);
        assert_eq!(audience.members(), [(one, (Presence::Waiting, 1))]);
    }

    #[test]
    fn whoever_drops_its_future_may_come_back() {
        let [first, second] = members();
        let audience = Audience::default();
        for member in [first, second] {
            audience.waits(member, ALL);
        }
        audience.stop_waiting_at(first.waker);
        let both = [first, second];
        assert_eq!(presences(&audience, both), [Some(Presence::Absent), Some(Presence::Waiting)]);
        audience.stop_waiting_at(second.waker);
        assert_eq!(presences(&audience, [second]), [Some(Presence::Absent)]);
        audience.handed(first, 1, ALL);
        audience.stop_waiting_at(first.waker);
        assert_eq!(presences(&audience, [first]), [Some(Presence::Handling)], "it did not wait");
    }

    /// Fails when a socket keeps every task that used it once.
    #[test]
    fn members_that_have_ended_are_forgotten() {
        let [kept] = members();
        let audience = Audience::default();
        audience.waits(kept, ALL);
        for waker in 0..1_000 {
            audience.handed(Member { task: TaskId::NONE, waker: 100 + waker }, 1, |task| {
                task != TaskId::NONE
            });
            assert!(audience.members().len() <= MANY + 2);
        }
        assert_eq!(presences(&audience, [kept]), [Some(Presence::Waiting)]);
        assert!(audience.receivers().has_forgotten);
    }
}
