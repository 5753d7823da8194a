//! [`Waiters`]: the receivers that wait for a datagram. Pure, except that it stores wakers.
//!
//! One datagram wakes one waiter, in order of arrival. If a waiter that was woken leaves without
//! taking anything, the next one is woken. If it stays but is not polled, it is passed over at the
//! end of the turn: see [`Inbox::turn_ends`](super::inbox::Inbox::turn_ends).

use std::collections::VecDeque;
use std::mem;
use std::task::Waker;

/// Identifies one waiter. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaiterKey(u64);

#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// The waiter that has waited longest, and nearly always the only one. `None` when nobody
    /// waits.
    longest: Option<Waiter>,
    /// The other waiters, in order of arrival.
    others: VecDeque<Waiter>,
    /// How many waiters have not been woken.
    unwoken: usize,
    /// How many waiters were woken so far. Wraps.
    woken: u64,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    key: WaiterKey,
    /// `None` from the moment it is woken until it is polled again.
    waker: Option<Waker>,
}

/// Whether a waiter that leaves was woken, so that another must be woken instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    Waiting,
    Woken,
}

impl Waiters {
    /// Adds a waiter, or lets the waiter `key` wait again. Returns its key, and a waker to be
    /// dropped when nothing is borrowed.
    pub(crate) fn wait(
        &mut self,
        key: Option<WaiterKey>,
        waker: Waker,
    ) -> (WaiterKey, Option<Waker>) {
        let known = self.iter_mut().find(|waiter| Some(waiter.key) == key);
        if let Some(waiter) = known {
            let (key, replaced) = (waiter.key, waiter.waker.replace(waker));
            self.unwoken += usize::from(replaced.is_none());
            return (key, replaced);
        }
        let key = WaiterKey(self.next);
        self.next += 1;
        self.unwoken += 1;
        let waiter = Waiter { key, waker: Some(waker) };
        match self.longest {
            None => self.longest = Some(waiter),
            Some(_) => self.others.push_back(waiter),
        }
        (key, None)
    }

    /// Takes the waker of the longest waiter that has not been woken.
    #[inline]
    pub(crate) fn next_waker(&mut self) -> Option<Waker> {
        if self.unwoken == 0 {
            return None;
        }
        self.unwoken -= 1;
        self.woken = self.woken.wrapping_add(1);
        self.iter_mut().find_map(|waiter| waiter.waker.take())
    }

    /// All waiters, the longest first.
    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiter> {
        self.longest.iter_mut().chain(&mut self.others)
    }

    /// Whether `next_waker` would return a waker.
    pub(crate) fn has_unwoken(&self) -> bool {
        self.unwoken > 0
    }

    /// How many waiters were woken so far. Callers compare two values to see whether any were woken
    /// in between. Wraps.
    pub(crate) fn woken(&self) -> u64 {
        self.woken
    }

    /// Removes a waiter that is served or has given up. Also returns its waker, to be dropped when
    /// nothing is borrowed.
    pub(crate) fn leave(&mut self, key: WaiterKey) -> (Departure, Option<Waker>) {
        let Some(left) = self.remove(key) else { return (Departure::Waiting, None) };
        match left.waker {
            None => (Departure::Woken, None),
            waker => {
                self.unwoken -= 1;
                (Departure::Waiting, waker)
            }
        }
    }

    fn remove(&mut self, key: WaiterKey) -> Option<Waiter> {
        if self.longest.as_ref().is_some_and(|longest| longest.key == key) {
            return mem::replace(&mut self.longest, self.others.pop_front());
        }
        let at = self.others.iter().position(|waiter| waiter.key == key)?;
        self.others.remove(at)
    }

    /// The number of waiters.
    #[cfg(any(test, ebbtide_model))]
    pub(crate) fn len(&self) -> usize {
        usize::from(self.longest.is_some()) + self.others.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waiter(waiters: &mut Waiters) -> (WaiterKey, Arc<Counter>) {
        let counter = Arc::new(Counter::default());
        let (key, replaced) = waiters.wait(None, Waker::from(Arc::clone(&counter)));
        assert!(replaced.is_none());
        (key, counter)
    }

    #[test]
    fn the_longest_waiter_is_woken_first_and_once() {
        let mut waiters = Waiters::default();
        let (_, first) = waiter(&mut waiters);
        let (_, second) = waiter(&mut waiters);
        waiters.next_waker().unwrap().wake();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (1, 0));
        waiters.next_waker().unwrap().wake();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (1, 1));
        assert!(waiters.next_waker().is_none());
    }

    /// Fails when a waiter does not move up behind one that leaves, and is overtaken.
    #[test]
    fn the_order_holds_when_others_leave() {
        let mut waiters = Waiters::default();
        let (first, _) = waiter(&mut waiters);
        let (_, second) = waiter(&mut waiters);
        let (third, _) = waiter(&mut waiters);
        waiters.leave(first);
        let (_, fourth) = waiter(&mut waiters);
        waiters.leave(third);
        assert_eq!(waiters.len(), 2);
        let woken = || [&second, &fourth].map(|counter| counter.0.load(Ordering::Relaxed));
        for expected in [[1, 0], [1, 1]] {
            waiters.next_waker().unwrap().wake();
            assert_eq!(woken(), expected);
        }
        assert!(waiters.next_waker().is_none());
    }

    #[test]
    fn a_woken_waiter_that_leaves_says_so() {
        let mut waiters = Waiters::default();
        let (first, _) = waiter(&mut waiters);
        let (second, _) = waiter(&mut waiters);
        drop(waiters.next_waker());
        assert_eq!(waiters.leave(first).0, Departure::Woken);
        assert_eq!(waiters.leave(second).0, Departure::Waiting);
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn a_waiter_that_polls_again_keeps_its_place() {
        let mut waiters = Waiters::default();
        let (first, _) = waiter(&mut waiters);
        let (_, second) = waiter(&mut waiters);
        drop(waiters.next_waker());
        let again = Arc::new(Counter::default());
        let (key, _) = waiters.wait(Some(first), Waker::from(Arc::clone(&again)));
        assert_eq!(key, first);
        waiters.next_waker().unwrap().wake();
        assert_eq!((again.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (1, 0));
    }

    /// Fails when a waiter that has left or was woken counts as unwoken, or one that waits does
    /// not.
    #[test]
    fn whether_somebody_waits_unwoken_is_known() {
        let mut waiters = Waiters::default();
        let (first, _) = waiter(&mut waiters);
        let (second, _) = waiter(&mut waiters);
        assert!(waiters.next_waker().is_some() && waiters.has_unwoken());
        waiters.leave(second);
        assert!(!waiters.has_unwoken());
        for _ in 0..2 {
            waiters.wait(Some(first), Waker::noop().clone());
            assert!(waiters.has_unwoken());
        }
        assert!(waiters.next_waker().is_some());
        assert!(!waiters.has_unwoken() && waiters.next_waker().is_none());
        waiters.leave(first);
        assert!(!waiters.has_unwoken());
    }
}
