//! What has arrived on a socket and was not taken yet, in the kernel's order: datagrams, and the
//! errors between them.

use std::collections::VecDeque;
use std::io;
use std::task::Waker;

use super::waiters::{Left, WaiterKey, Waiters};

/// One thing that a receiver is handed.
#[derive(Debug)]
pub(crate) enum Arrival<T> {
    Datagram(T),
    Error(io::Error),
}

#[derive(Debug)]
pub(crate) struct Inbox<T> {
    arrivals: VecDeque<Arrival<T>>,
    /// How many of `arrivals` are errors.
    errors: usize,
    waiters: Waiters,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { arrivals: VecDeque::new(), errors: 0, waiters: Waiters::default() }
    }
}

impl<T> Inbox<T> {
    /// Adds an arrival; returns the waker of the one waiter that it is for.
    pub(crate) fn push(&mut self, arrival: Arrival<T>) -> Option<Waker> {
        if matches!(arrival, Arrival::Error(_)) {
            self.errors += 1;
        }
        self.arrivals.push_back(arrival);
        self.waiters.next_waker()
    }

    /// Takes what arrived first.
    pub(crate) fn pop(&mut self) -> Option<Arrival<T>> {
        let arrival = self.arrivals.pop_front()?;
        if matches!(arrival, Arrival::Error(_)) {
            self.errors -= 1;
        }
        Some(arrival)
    }

    /// Whether `pop` would give nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// Whether `pop` would give a datagram.
    pub(crate) fn is_next_datagram(&self) -> bool {
        matches!(self.arrivals.front(), Some(Arrival::Datagram(_)))
    }

    /// Datagrams that wait to be taken.
    pub(crate) fn datagrams(&self) -> usize {
        self.arrivals.len() - self.errors
    }

    /// Errors that wait to be taken.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// A receiver found nothing and waits. See [`Waiters::wait`].
    pub(crate) fn wait(
        &mut self,
        key: Option<WaiterKey>,
        waker: Waker,
    ) -> (WaiterKey, Option<Waker>) {
        self.waiters.wait(key, waker)
    }

    /// A receiver does not wait any more, because it was served.
    pub(crate) fn served(&mut self, key: WaiterKey) -> Option<Waker> {
        self.waiters.leave(key).1
    }

    /// A receiver does not wait any more, because its future was dropped. The wake that it may have
    /// had goes to the next one, if there is something to take: returns whom to wake, and a waker
    /// to drop.
    pub(crate) fn dropped(&mut self, key: WaiterKey) -> (Option<Waker>, Option<Waker>) {
        let (left, own) = self.waiters.leave(key);
        let next = match left {
            Left::Woken if !self.arrivals.is_empty() => self.waiters.next_waker(),
            Left::Woken | Left::Waiting => None,
        };
        (next, own)
    }

    /// Nothing will arrive any more: everybody who waits has to be told.
    pub(crate) fn take_wakers(&mut self) -> Vec<Waker> {
        std::iter::from_fn(|| self.waiters.next_waker()).collect()
    }

    /// Takes everything, in order.
    pub(crate) fn take_all(&mut self) -> VecDeque<Arrival<T>> {
        self.errors = 0;
        std::mem::take(&mut self.arrivals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(inbox: &mut Inbox<u32>) -> WaiterKey {
        inbox.wait(None, Waker::noop().clone()).0
    }

    #[test]
    fn arrivals_leave_in_order() {
        let mut inbox = Inbox::default();
        for number in 0..3 {
            inbox.push(Arrival::Datagram(number));
        }
        inbox.push(Arrival::Error(io::ErrorKind::ConnectionRefused.into()));
        assert_eq!((inbox.datagrams(), inbox.errors()), (3, 1));
        for number in 0..3 {
            assert!(matches!(inbox.pop(), Some(Arrival::Datagram(popped)) if popped == number));
        }
        assert!(matches!(inbox.pop(), Some(Arrival::Error(_))));
        assert!(inbox.pop().is_none());
        assert_eq!((inbox.datagrams(), inbox.errors()), (0, 0));
    }

    #[test]
    fn one_datagram_wakes_one_waiter() {
        let mut inbox = Inbox::default();
        wait(&mut inbox);
        wait(&mut inbox);
        assert!(inbox.push(Arrival::Datagram(1)).is_some());
        assert!(inbox.push(Arrival::Datagram(2)).is_some());
        assert!(inbox.push(Arrival::Datagram(3)).is_none());
    }

    /// Fails when a dropped waiter keeps its wake.
    #[test]
    fn a_woken_waiter_that_is_dropped_passes_its_wake_on() {
        let mut inbox = Inbox::default();
        let first = wait(&mut inbox);
        wait(&mut inbox);
        assert!(inbox.push(Arrival::Datagram(1)).is_some());
        let (next, _) = inbox.dropped(first);
        assert!(next.is_some(), "the second waiter is woken for the datagram");
    }

    #[test]
    fn a_waiter_dropped_before_its_wake_wakes_nobody() {
        let mut inbox = Inbox::default();
        let first = wait(&mut inbox);
        wait(&mut inbox);
        let (next, own) = inbox.dropped(first);
        assert!(next.is_none() && own.is_some());
        assert!(inbox.push(Arrival::Datagram(1)).is_some());
    }

    #[test]
    fn a_woken_waiter_whose_datagram_was_taken_has_nothing_to_pass_on() {
        let mut inbox = Inbox::default();
        let first = wait(&mut inbox);
        wait(&mut inbox);
        inbox.push(Arrival::Datagram(1));
        inbox.pop();
        assert!(inbox.dropped(first).0.is_none());
    }
}
