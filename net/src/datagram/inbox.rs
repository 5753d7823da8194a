//! What has arrived on a socket and was not taken yet, in the kernel's order: datagrams, and the
//! errors between them.

use std::collections::VecDeque;
use std::io;
use std::task::Waker;

use super::waiters::{Left, WaiterKey, Waiters};

/// What one message brings: a datagram, or several at once.
pub(crate) trait Several: Sized {
    /// How many datagrams there are; at least 1.
    fn count(&self) -> usize;

    /// Takes the first datagram off. `None`: there is only one.
    fn split_off_first(&mut self) -> Option<Self>;
}

/// One thing that a receiver is handed.
#[derive(Debug)]
pub(crate) enum Arrival<T> {
    Datagrams(T),
    Error(io::Error),
}

/// How much a receiver takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Portion {
    Datagram,
    /// All datagrams of one message.
    Message,
}

#[derive(Debug)]
pub(crate) struct Inbox<T> {
    arrivals: VecDeque<Arrival<T>>,
    /// How many of `arrivals` are errors.
    errors: usize,
    /// How many datagrams `arrivals` hold.
    datagrams: usize,
    waiters: Waiters,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { arrivals: VecDeque::new(), errors: 0, datagrams: 0, waiters: Waiters::default() }
    }
}

impl<T: Several> Inbox<T> {
    /// Adds an arrival; hands `wake` the waker of one waiter for each datagram.
    #[inline]
    pub(crate) fn push(&mut self, arrival: Arrival<T>, mut wake: impl FnMut(Waker)) {
        let count = match &arrival {
            Arrival::Datagrams(several) => {
                let count = several.count();
                self.datagrams += count;
                count
            }
            Arrival::Error(_) => {
                self.errors += 1;
                1
            }
        };
        self.arrivals.push_back(arrival);
        for _ in 0..count {
            let Some(waker) = self.waiters.next_waker() else { return };
            wake(waker);
        }
    }

    /// Takes what arrived first.
    #[inline]
    pub(crate) fn pop(&mut self, portion: Portion) -> Option<Arrival<T>> {
        if portion == Portion::Datagram
            && let Some(Arrival::Datagrams(several)) = self.arrivals.front_mut()
            && let Some(first) = several.split_off_first()
        {
            self.datagrams -= 1;
            return Some(Arrival::Datagrams(first));
        }
        let arrival = self.arrivals.pop_front()?;
        match &arrival {
            Arrival::Datagrams(several) => self.datagrams -= several.count(),
            Arrival::Error(_) => self.errors -= 1,
        }
        Some(arrival)
    }

    /// Whether `pop` would give nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// Whether `pop` would give a datagram.
    pub(crate) fn is_next_datagram(&self) -> bool {
        matches!(self.arrivals.front(), Some(Arrival::Datagrams(_)))
    }

    /// Datagrams that wait to be taken.
    pub(crate) fn datagrams(&self) -> usize {
        self.datagrams
    }

    /// Messages that hold them: each takes a buffer.
    pub(crate) fn messages(&self) -> usize {
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
        self.datagrams = 0;
        std::mem::take(&mut self.arrivals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many datagrams as there are letters.
    impl Several for &'static str {
        fn count(&self) -> usize {
            self.len()
        }

        fn split_off_first(&mut self) -> Option<Self> {
            if self.len() == 1 {
                return None;
            }
            let (first, rest) = self.split_at(1);
            *self = rest;
            Some(first)
        }
    }

    type TestInbox = Inbox<&'static str>;

    fn wait(inbox: &mut TestInbox) -> WaiterKey {
        inbox.wait(None, Waker::noop().clone()).0
    }

    /// How many were woken.
    fn push(inbox: &mut TestInbox, datagrams: &'static str) -> usize {
        let mut woken = 0;
        inbox.push(Arrival::Datagrams(datagrams), |_| woken += 1);
        woken
    }

    fn pop(inbox: &mut TestInbox, portion: Portion) -> &'static str {
        match inbox.pop(portion) {
            Some(Arrival::Datagrams(datagrams)) => datagrams,
            Some(Arrival::Error(_)) => "error",
            None => "nothing",
        }
    }

    #[test]
    fn arrivals_leave_in_order() {
        let mut inbox = TestInbox::default();
        for datagrams in ["a", "bcd", "e"] {
            push(&mut inbox, datagrams);
        }
        inbox.push(Arrival::Error(io::ErrorKind::ConnectionRefused.into()), drop);
        assert_eq!((inbox.datagrams(), inbox.messages(), inbox.errors()), (5, 3, 1));
        for expected in ["a", "b", "c", "d", "e", "error", "nothing"] {
            assert_eq!(pop(&mut inbox, Portion::Datagram), expected);
        }
        assert_eq!((inbox.datagrams(), inbox.messages(), inbox.errors()), (0, 0, 0));
    }

    #[test]
    fn the_rest_of_a_train_can_be_taken_whole() {
        let mut inbox = TestInbox::default();
        push(&mut inbox, "abcd");
        assert_eq!(pop(&mut inbox, Portion::Datagram), "a");
        assert_eq!((inbox.datagrams(), inbox.messages()), (3, 1));
        assert_eq!(pop(&mut inbox, Portion::Message), "bcd");
        assert_eq!((inbox.datagrams(), inbox.messages()), (0, 0));
    }

    #[test]
    fn one_datagram_wakes_one_waiter() {
        let mut inbox = TestInbox::default();
        wait(&mut inbox);
        wait(&mut inbox);
        assert_eq!(push(&mut inbox, "a"), 1);
        assert_eq!(push(&mut inbox, "b"), 1);
        assert_eq!(push(&mut inbox, "c"), 0);
    }

    /// Fails when a train wakes one waiter only, and the others sleep beside it.
    #[test]
    fn a_train_wakes_a_waiter_for_each_of_its_datagrams() {
        let mut inbox = TestInbox::default();
        for _ in 0..3 {
            wait(&mut inbox);
        }
        assert_eq!(push(&mut inbox, "ab"), 2);
        assert_eq!(push(&mut inbox, "cdef"), 1);
    }

    /// Fails when a dropped waiter keeps its wake.
    #[test]
    fn a_woken_waiter_that_is_dropped_passes_its_wake_on() {
        let mut inbox = TestInbox::default();
        let first = wait(&mut inbox);
        wait(&mut inbox);
        assert_eq!(push(&mut inbox, "a"), 1);
        let (next, _) = inbox.dropped(first);
        assert!(next.is_some(), "the second waiter is woken for the datagram");
    }

    #[test]
    fn a_waiter_dropped_before_its_wake_wakes_nobody() {
        let mut inbox = TestInbox::default();
        let first = wait(&mut inbox);
        wait(&mut inbox);
        let (next, own) = inbox.dropped(first);
        assert!(next.is_none() && own.is_some());
        assert_eq!(push(&mut inbox, "a"), 1);
    }

    #[test]
    fn a_woken_waiter_whose_datagram_was_taken_has_nothing_to_pass_on() {
        let mut inbox = TestInbox::default();
        let first = wait(&mut inbox);
        wait(&mut inbox);
        push(&mut inbox, "a");
        pop(&mut inbox, Portion::Datagram);
        assert!(inbox.dropped(first).0.is_none());
    }
}
