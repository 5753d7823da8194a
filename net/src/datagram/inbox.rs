//! What has arrived on a socket and was not taken yet, in the kernel's order.
//!
//! A message in a buffer of the pool waits as the completion named it, and is opened when it is
//! taken. Errors, and messages that are not in the pool, wait beside those.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::task::Waker;

use ebbtide_runtime::driver::Wakes;

use super::waiters::{Left, WaiterKey, Waiters};

/// What one message brings: a datagram, or several at once.
pub(super) trait Several: Sized {
    /// How many datagrams there are; at least 1.
    fn count(&self) -> usize;

    /// Takes the first datagram off. `None`: there is only one.
    fn split_off_first(&mut self) -> Option<Self>;
}

/// One thing that a receiver is handed.
#[derive(Debug)]
pub(super) enum Arrival<M> {
    Datagrams(M),
    Error(io::Error),
}

/// How much a receiver takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Portion {
    Datagram,
    /// All datagrams of one message.
    Message,
}

/// Messages of type `M`, those in the pool as `F`.
#[derive(Debug)]
pub(super) struct Inbox<F, M> {
    /// What is left of a message of which something was taken: comes before all others.
    rest: Option<M>,
    filled: VecDeque<F>,
    /// What is not in the pool, each with how many of `filled`, of all that ever were, come before.
    beside: VecDeque<(u64, Arrival<M>)>,
    /// How many of `filled` have been taken.
    taken: u64,
    /// How many of `beside` are errors.
    errors: usize,
    waiters: Waiters,
    /// How many waiters had been woken when the last turn ended.
    woken_before: u64,
}

/// Whether what has arrived waits for somebody who was woken, although others wait beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// No: nothing waits, or nobody else.
    Settled,
    /// Yes. To be asked again at the end of the next turn.
    Open,
}

impl<F, M> Default for Inbox<F, M> {
    fn default() -> Self {
        Self {
            rest: None,
            filled: VecDeque::new(),
            beside: VecDeque::new(),
            taken: 0,
            errors: 0,
            waiters: Waiters::default(),
            woken_before: 0,
        }
    }
}

impl<F, M: Several> Inbox<F, M> {
    /// Adds a message in the pool. Returns whom to wake: one waiter, also for several datagrams;
    /// whoever leaves some of them passes the wake on.
    #[inline]
    pub(super) fn push_filled(&mut self, filled: F) -> Option<Waker> {
        self.filled.push_back(filled);
        self.waiters.next_waker()
    }

    /// The same for several messages, at least one: leaves whom to wake, one waiter for each.
    #[inline]
    pub(super) fn push_all_filled(
        &mut self,
        filled: impl ExactSizeIterator<Item = F>,
        wakes: &mut Wakes,
    ) {
        let count = filled.len();
        self.filled.extend(filled);
        wakes.wake(iter::from_fn(|| self.waiters.next_waker()).take(count));
    }

    /// Adds a message that is not in the pool. Returns whom to wake.
    pub(super) fn push(&mut self, message: M) -> Option<Waker> {
        self.push_beside(Arrival::Datagrams(message))
    }

    /// Adds an error. Returns whom to wake. It takes the place of one that waits right before it,
    /// for which somebody was woken: the kernel, too, has one pending error for a socket, and a
    /// storm of them is not to fill the memory of a drain.
    pub(super) fn push_error(&mut self, error: io::Error) -> Option<Waker> {
        let position = self.position();
        if let Some((after, Arrival::Error(last))) = self.beside.back_mut()
            && *after == position
        {
            *last = error;
            return None;
        }
        self.errors += 1;
        self.push_beside(Arrival::Error(error))
    }

    fn push_beside(&mut self, arrival: Arrival<M>) -> Option<Waker> {
        self.beside.push_back((self.position(), arrival));
        self.waiters.next_waker()
    }

    /// How many of `filled`, of all that ever were, come before what arrives next.
    fn position(&self) -> u64 {
        self.taken + self.filled.len() as u64
    }

    /// The message that comes next, if it is in the pool.
    #[inline]
    pub(super) fn next_filled(&self) -> Option<&F> {
        if self.rest.is_some() || !self.beside.is_empty() {
            return None;
        }
        self.filled.front()
    }

    /// Takes the message that [`next_filled`](Self::next_filled) showed.
    #[inline]
    pub(super) fn take_filled(&mut self) -> Option<F> {
        let filled = self.filled.pop_front()?;
        self.taken += 1;
        Some(filled)
    }

    /// Takes what comes next; `open` opens what is in the pool. Returns also whom to wake.
    pub(super) fn pop(
        &mut self,
        portion: Portion,
        open: impl FnOnce(F) -> M,
    ) -> Option<(Arrival<M>, Option<Waker>)> {
        let mut message = match self.rest.take() {
            Some(rest) => rest,
            None => match self.next(open)? {
                Arrival::Datagrams(message) => message,
                error @ Arrival::Error(_) => return Some((error, None)),
            },
        };
        if portion == Portion::Datagram
            && let Some(first) = message.split_off_first()
        {
            self.rest = Some(message);
            return Some((Arrival::Datagrams(first), self.waiters.next_waker()));
        }
        Some((Arrival::Datagrams(message), None))
    }

    /// Takes what comes next if it is an error, of which `wants` says yes.
    pub(super) fn take_error(
        &mut self,
        wants: impl FnOnce(&io::Error) -> bool,
    ) -> Option<io::Error> {
        let (after, Arrival::Error(error)) = self.beside.front()? else { return None };
        if self.rest.is_some() || *after != self.taken || !wants(error) {
            return None;
        }
        let Some((_, Arrival::Error(error))) = self.beside.pop_front() else {
            unreachable!("it was just seen");
        };
        self.errors -= 1;
        Some(error)
    }

    /// Takes what comes after the rest.
    fn next(&mut self, open: impl FnOnce(F) -> M) -> Option<Arrival<M>> {
        if let Some((after, _)) = self.beside.front()
            && *after == self.taken
        {
            let (_, arrival) = self.beside.pop_front()?;
            self.errors -= usize::from(matches!(arrival, Arrival::Error(_)));
            return Some(arrival);
        }
        self.take_filled().map(|filled| Arrival::Datagrams(open(filled)))
    }

    /// Opens all that waits, where it is.
    pub(super) fn open_all(&mut self, mut open: impl FnMut(F) -> M) {
        let arrivals: Vec<_> = iter::from_fn(|| self.next(&mut open)).collect();
        for arrival in arrivals {
            self.errors += usize::from(matches!(arrival, Arrival::Error(_)));
            self.beside.push_back((self.taken, arrival));
        }
    }

    /// Whether `pop` would give nothing.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.filled.is_empty() && self.beside.is_empty() && self.rest.is_none()
    }

    /// Whether `pop` would give a datagram.
    pub(super) fn is_next_datagram(&self) -> bool {
        match self.beside.front() {
            Some((after, Arrival::Error(_))) if *after == self.taken => self.rest.is_some(),
            _ => !self.is_empty(),
        }
    }

    /// Messages: each takes a buffer, or memory as large.
    #[inline]
    pub(super) fn messages(&self) -> usize {
        self.filled.len() + self.beside.len() - self.errors + usize::from(self.rest.is_some())
    }

    /// Errors that wait to be taken.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// Messages in the pool that have not been opened.
    pub(super) fn filled(&self) -> impl ExactSizeIterator<Item = &F> {
        self.filled.iter()
    }

    /// The other messages.
    pub(super) fn opened(&self) -> impl Iterator<Item = &M> {
        let beside = self.beside.iter().filter_map(|(_, arrival)| match arrival {
            Arrival::Datagrams(message) => Some(message),
            Arrival::Error(_) => None,
        });
        self.rest.iter().chain(beside)
    }

    /// How many datagrams there are; `open` gives the number of those in the pool.
    pub(super) fn datagrams(&self, count: impl Fn(&F) -> usize) -> usize {
        let beside = self.beside.iter().map(|(_, arrival)| match arrival {
            Arrival::Datagrams(message) => message.count(),
            Arrival::Error(_) => 0,
        });
        let rest = self.rest.as_ref().map_or(0, M::count);
        rest + beside.sum::<usize>() + self.filled.iter().map(count).sum::<usize>()
    }

    /// Whether somebody waits who has not been woken.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiters.has_unwoken()
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
            Left::Woken if !self.is_empty() => self.waiters.next_waker(),
            Left::Woken | Left::Waiting => None,
        };
        (next, own)
    }

    /// The tasks that were ready have run. Those that were woken for what has arrived have come by
    /// now, unless they were woken in this turn, or their futures are held and not polled. Then the
    /// next who wait are woken instead, one for each message.
    pub(super) fn turn_ends(&mut self, wakes: &mut Wakes) -> Claim {
        if self.is_empty() || !self.waiters.has_unwoken() {
            return Claim::Settled;
        }
        let woken = self.waiters.woken();
        if woken == self.woken_before {
            let arrivals = self.messages() + self.errors;
            wakes.wake(iter::from_fn(|| self.waiters.next_waker()).take(arrivals));
        }
        self.woken_before = woken;
        Claim::Open
    }

    /// How many receivers wait.
    #[cfg(ebbtide_model)]
    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Nothing will arrive any more: everybody who waits has to be told.
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        iter::from_fn(|| self.waiters.next_waker()).collect()
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

    /// In the pool, a message is one that has not been opened.
    struct Sealed(&'static str);

    type TestInbox = Inbox<Sealed, &'static str>;

    fn wait(inbox: &mut TestInbox) -> WaiterKey {
        inbox.wait(None, Waker::noop().clone()).0
    }

    /// Whether somebody was woken.
    fn push(inbox: &mut TestInbox, datagrams: &'static str) -> bool {
        inbox.push_filled(Sealed(datagrams)).is_some()
    }

    /// What was taken, and whether somebody was woken for what is left.
    fn pop_and_wake(inbox: &mut TestInbox, portion: Portion) -> (&'static str, bool) {
        match inbox.pop(portion, |sealed| sealed.0) {
            Some((Arrival::Datagrams(datagrams), next)) => (datagrams, next.is_some()),
            Some((Arrival::Error(_), next)) => ("error", next.is_some()),
            None => ("nothing", false),
        }
    }

    fn pop(inbox: &mut TestInbox, portion: Portion) -> &'static str {
        pop_and_wake(inbox, portion).0
    }

    /// Datagrams, messages, errors.
    fn counts(inbox: &TestInbox) -> (usize, usize, usize) {
        (inbox.datagrams(|sealed| sealed.0.len()), inbox.messages(), inbox.errors())
    }

    /// In the pool, beside it, and an error: `a`, `bcd`, `e`, an error, `f`.
    fn mixed() -> TestInbox {
        let mut inbox = TestInbox::default();
        push(&mut inbox, "a");
        inbox.push("bcd");
        push(&mut inbox, "e");
        inbox.push_error(io::ErrorKind::ConnectionRefused.into());
        push(&mut inbox, "f");
        inbox
    }

    #[test]
    fn arrivals_leave_in_order_wherever_they_wait() {
        let mut inbox = mixed();
        assert_eq!(counts(&inbox), (6, 4, 1));
        for expected in ["a", "b", "c", "d", "e", "error", "f", "nothing"] {
            assert_eq!(inbox.is_next_datagram(), !["error", "nothing"].contains(&expected));
            assert_eq!(pop(&mut inbox, Portion::Datagram), expected);
        }
        assert_eq!(counts(&inbox), (0, 0, 0));
        assert!(inbox.is_empty());
    }

    #[test]
    fn what_is_opened_early_keeps_its_place() {
        let mut inbox = mixed();
        assert_eq!(pop(&mut inbox, Portion::Datagram), "a");
        assert_eq!(pop(&mut inbox, Portion::Datagram), "b");
        inbox.open_all(|sealed| sealed.0);
        assert_eq!((inbox.filled().count(), counts(&inbox)), (0, (4, 3, 1)));
        push(&mut inbox, "g");
        for expected in ["c", "d", "e", "error", "f", "g", "nothing"] {
            assert_eq!(pop(&mut inbox, Portion::Datagram), expected);
        }
    }

    /// Fails when the short way past what waits beside the pool overtakes it.
    #[test]
    fn the_short_way_overtakes_nothing() {
        let mut inbox = TestInbox::default();
        push(&mut inbox, "ab");
        assert!(inbox.next_filled().is_some());
        assert_eq!(pop(&mut inbox, Portion::Datagram), "a");
        push(&mut inbox, "c");
        assert!(inbox.next_filled().is_none(), "`b` comes first");
        assert_eq!(pop(&mut inbox, Portion::Datagram), "b");
        assert!(inbox.next_filled().is_some());
        inbox.push("d");
        assert!(inbox.next_filled().is_none());
        for expected in ["c", "d", "nothing"] {
            assert_eq!(pop(&mut inbox, Portion::Datagram), expected);
        }
    }

    /// Fails when a storm of errors fills the memory.
    #[test]
    fn of_errors_in_a_row_the_last_is_kept_in_its_place() {
        let mut inbox = TestInbox::default();
        wait(&mut inbox);
        wait(&mut inbox);
        let mut woken = 0;
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::HostUnreachable] {
            woken += usize::from(inbox.push_error(kind.into()).is_some());
        }
        assert_eq!((woken, inbox.errors(), inbox.messages()), (1, 1, 0));
        assert!(push(&mut inbox, "a"));
        inbox.push_error(io::ErrorKind::ConnectionRefused.into());
        assert_eq!((inbox.errors(), inbox.messages()), (2, 1));
        let Some((Arrival::Error(first), _)) = inbox.pop(Portion::Datagram, |sealed| sealed.0)
        else {
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
        assert_eq!(counts(&inbox), (3, 1, 0));
        assert_eq!(pop(&mut inbox, Portion::Message), "bcd");
        assert_eq!(counts(&inbox), (0, 0, 0));
    }

    #[test]
    fn one_datagram_wakes_one_waiter() {
        let mut inbox = TestInbox::default();
        wait(&mut inbox);
        wait(&mut inbox);
        assert!(push(&mut inbox, "a"));
        assert!(inbox.push("b").is_some());
        assert!(!push(&mut inbox, "c"));
    }

    /// Fails when a train wakes one waiter only, and the others sleep beside it.
    #[test]
    fn whoever_leaves_some_of_a_train_wakes_the_next() {
        let mut inbox = TestInbox::default();
        for _ in 0..3 {
            wait(&mut inbox);
        }
        assert!(push(&mut inbox, "abc"));
        assert_eq!(pop_and_wake(&mut inbox, Portion::Datagram), ("a", true));
        assert_eq!(pop_and_wake(&mut inbox, Portion::Datagram), ("b", true));
        assert_eq!(pop_and_wake(&mut inbox, Portion::Datagram), ("c", false));
        assert!(!push(&mut inbox, "d"), "all three have been woken");
    }

    /// Fails when a dropped waiter keeps its wake.
    #[test]
    fn a_woken_waiter_that_is_dropped_passes_its_wake_on() {
        let mut inbox = TestInbox::default();
        let first = wait(&mut inbox);
        wait(&mut inbox);
        assert!(push(&mut inbox, "a"));
        let (next, _) = inbox.dropped(first);
        assert!(next.is_some(), "the second waiter is woken for the datagram");
    }

    /// Ends a turn. Returns the answer, and how many were woken.
    fn end_turn(inbox: &mut TestInbox) -> (Claim, usize) {
        let before = inbox.waiters.woken();
        let claim = inbox.turn_ends(&mut Wakes::default());
        (claim, (inbox.waiters.woken() - before) as usize)
    }

    /// Fails when what arrived waits for ever for a waiter that does not come, or when somebody else
    /// is woken before that one could.
    #[test]
    fn who_was_woken_and_does_not_come_is_passed_over() {
        let mut inbox = TestInbox::default();
        for _ in 0..4 {
            wait(&mut inbox);
        }
        assert!(push(&mut inbox, "a"));
        assert_eq!(end_turn(&mut inbox), (Claim::Open, 0), "it comes in this turn");
        assert_eq!(end_turn(&mut inbox), (Claim::Open, 1), "it did not");
        inbox.push_error(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(end_turn(&mut inbox), (Claim::Open, 0), "one was woken in this turn");
        assert_eq!(end_turn(&mut inbox), (Claim::Open, 1), "there is nobody else");
        assert_eq!(end_turn(&mut inbox), (Claim::Settled, 0));
    }

    #[test]
    fn as_many_are_woken_instead_as_there_are_messages() {
        let mut inbox = TestInbox::default();
        let held = [(); 3].map(|()| wait(&mut inbox));
        for datagrams in ["a", "bc", "d"] {
            push(&mut inbox, datagrams);
        }
        for _ in 0..5 {
            wait(&mut inbox);
        }
        assert_eq!(end_turn(&mut inbox), (Claim::Open, 0));
        assert_eq!(end_turn(&mut inbox), (Claim::Open, 3));
        assert_eq!(end_turn(&mut inbox), (Claim::Open, 0));
        for expected in ["a", "b", "c", "d"] {
            assert_eq!(pop(&mut inbox, Portion::Datagram), expected);
        }
        assert_eq!(end_turn(&mut inbox), (Claim::Settled, 0), "nothing is left");
        for key in held {
            assert!(inbox.dropped(key).0.is_none());
        }
    }

    #[test]
    fn a_waiter_dropped_before_its_wake_wakes_nobody() {
        let mut inbox = TestInbox::default();
        let first = wait(&mut inbox);
        wait(&mut inbox);
        let (next, own) = inbox.dropped(first);
        assert!(next.is_none() && own.is_some());
        assert!(push(&mut inbox, "a"));
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
