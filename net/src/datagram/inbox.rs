//! What has arrived on a socket and was not taken yet, in the kernel's order: datagrams, and the
//! errors between them.

use std::collections::VecDeque;
use std::io;
use std::task::Waker;

use super::waiters::{Left, WaiterKey, Waiters};

/// What one message brings: a datagram, or several at once.
pub(super) trait Several: Sized {
    /// What it takes to take it.
    type Source;
    /// What a receiver gets.
    type Taken;

    /// How many datagrams there are; at least 1.
    fn count(&self) -> usize;

    /// Takes the first datagram off. `None`: there is only one.
    fn take_first(&mut self, source: &mut Self::Source) -> Option<Self::Taken>;

    /// Takes all that are left.
    fn take(self, source: &mut Self::Source) -> Self::Taken;
}

/// One thing that a receiver is handed.
#[derive(Debug)]
pub(super) enum Arrival<T> {
    Datagrams(T),
    Error(io::Error),
}

/// How much a receiver takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Portion {
    Datagram,
    /// All datagrams of one message.
    Message,
}

#[derive(Debug)]
pub(super) struct Inbox<T> {
    arrivals: VecDeque<Place<T>>,
    /// In the order of their places in `arrivals`.
    errors: VecDeque<io::Error>,
    /// How many datagrams `arrivals` hold.
    datagrams: usize,
    waiters: Waiters,
}

#[derive(Debug)]
enum Place<T> {
    Datagrams(T),
    Error,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self {
            arrivals: VecDeque::new(),
            errors: VecDeque::new(),
            datagrams: 0,
            waiters: Waiters::default(),
        }
    }
}

impl<T: Several> Inbox<T> {
    /// Adds datagrams; hands `wake` the waker of one waiter for each.
    #[inline]
    pub(super) fn push(&mut self, datagrams: T, mut wake: impl FnMut(Waker)) {
        let count = datagrams.count();
        self.datagrams += count;
        self.arrivals.push_back(Place::Datagrams(datagrams));
        for _ in 0..count {
            let Some(waker) = self.waiters.next_waker() else { return };
            wake(waker);
        }
    }

    /// Adds an error; hands `wake` the waker of one waiter. It takes the place of one that waits
    /// right before it, for which somebody was woken: the kernel, too, has one pending error for a
    /// socket, and a storm of them is not to fill the memory of a drain.
    pub(super) fn push_error(&mut self, error: io::Error, wake: impl FnOnce(Waker)) {
        if let (Some(Place::Error), Some(last)) = (self.arrivals.back(), self.errors.back_mut()) {
            *last = error;
            return;
        }
        self.errors.push_back(error);
        self.arrivals.push_back(Place::Error);
        if let Some(waker) = self.waiters.next_waker() {
            wake(waker);
        }
    }

    /// Takes what arrived first.
    #[inline]
    pub(super) fn pop(
        &mut self,
        portion: Portion,
        source: &mut T::Source,
    ) -> Option<Arrival<T::Taken>> {
        if portion == Portion::Datagram
            && let Some(Place::Datagrams(several)) = self.arrivals.front_mut()
            && let Some(first) = several.take_first(source)
        {
            self.datagrams -= 1;
            return Some(Arrival::Datagrams(first));
        }
        Some(match self.arrivals.pop_front()? {
            Place::Datagrams(several) => {
                self.datagrams -= several.count();
                Arrival::Datagrams(several.take(source))
            }
            Place::Error => {
                Arrival::Error(self.errors.pop_front().expect("there is one for each place"))
            }
        })
    }

    /// Whether `pop` would give nothing.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// Whether `pop` would give a datagram.
    pub(super) fn is_next_datagram(&self) -> bool {
        matches!(self.arrivals.front(), Some(Place::Datagrams(_)))
    }

    /// Datagrams that wait to be taken.
    pub(super) fn datagrams(&self) -> usize {
        self.datagrams
    }

    /// Messages that hold them: each takes a buffer.
    #[inline]
    pub(super) fn messages(&self) -> usize {
        self.arrivals.len() - self.errors.len()
    }

    /// Errors that wait to be taken.
    pub(super) fn errors(&self) -> usize {
        self.errors.len()
    }

    /// A receiver found nothing and waits. See [`Waiters::wait`].
    pub(super) fn wait(
        &mut self,
        key: Option<WaiterKey>,
        waker: Waker,
    ) -> (WaiterKey, Option<Waker>) {
        self.waiters.wait(key, waker)
    }

    /// A receiver does not wait any more, because it was served.
    pub(super) fn served(&mut self, key: WaiterKey) -> Option<Waker> {
        self.waiters.leave(key).1
    }

    /// A receiver does not wait any more, because its future was dropped. The wake that it may have
    /// had goes to the next one, if there is something to take: returns whom to wake, and a waker
    /// to drop.
    pub(super) fn dropped(&mut self, key: WaiterKey) -> (Option<Waker>, Option<Waker>) {
        let (left, own) = self.waiters.leave(key);
        let next = match left {
            Left::Woken if !self.arrivals.is_empty() => self.waiters.next_waker(),
            Left::Woken | Left::Waiting => None,
        };
        (next, own)
    }

    /// Nothing will arrive any more: everybody who waits has to be told.
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        std::iter::from_fn(|| self.waiters.next_waker()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many datagrams as there are letters.
    impl Several for &'static str {
        type Source = ();
        type Taken = Self;

        fn count(&self) -> usize {
            self.len()
        }

        fn take_first(&mut self, (): &mut ()) -> Option<Self> {
            if self.len() == 1 {
                return None;
            }
            let (first, rest) = self.split_at(1);
            *self = rest;
            Some(first)
        }

        fn take(self, (): &mut ()) -> Self {
            self
        }
    }

    type TestInbox = Inbox<&'static str>;

    fn wait(inbox: &mut TestInbox) -> WaiterKey {
        inbox.wait(None, Waker::noop().clone()).0
    }

    /// How many were woken.
    fn push(inbox: &mut TestInbox, datagrams: &'static str) -> usize {
        let mut woken = 0;
        inbox.push(datagrams, |_| woken += 1);
        woken
    }

    fn pop(inbox: &mut TestInbox, portion: Portion) -> &'static str {
        match inbox.pop(portion, &mut ()) {
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
        inbox.push_error(io::ErrorKind::ConnectionRefused.into(), drop);
        assert_eq!((inbox.datagrams(), inbox.messages(), inbox.errors()), (5, 3, 1));
        for expected in ["a", "b", "c", "d", "e", "error", "nothing"] {
            assert_eq!(pop(&mut inbox, Portion::Datagram), expected);
        }
        assert_eq!((inbox.datagrams(), inbox.messages(), inbox.errors()), (0, 0, 0));
    }

    /// Fails when a storm of errors fills the memory.
    #[test]
    fn of_errors_in_a_row_the_last_is_kept_in_its_place() {
        let mut inbox = TestInbox::default();
        wait(&mut inbox);
        wait(&mut inbox);
        let mut woken = 0;
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::HostUnreachable] {
            inbox.push_error(kind.into(), |_| woken += 1);
        }
        assert_eq!((woken, inbox.errors(), inbox.messages()), (1, 1, 0));
        assert_eq!(push(&mut inbox, "a"), 1);
        inbox.push_error(io::ErrorKind::ConnectionRefused.into(), drop);
        assert_eq!((inbox.errors(), inbox.messages()), (2, 1));
        let Some(Arrival::Error(first)) = inbox.pop(Portion::Datagram, &mut ()) else {
            panic!("the errors came first");
        };
        assert_eq!(first.kind(), io::ErrorKind::HostUnreachable);
        for expected in ["a", "error", "nothing"] {
            assert_eq!(pop(&mut inbox, Portion::Datagram), expected);
        }
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
