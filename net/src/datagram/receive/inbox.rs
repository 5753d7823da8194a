//! [`Inbox`]: what has arrived on a socket and was not taken yet, in the kernel's order.
//!
//! A message in a buffer of the pool waits unopened, and is opened when it is taken. Errors, and
//! messages that are not in the pool, are kept separately.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::task::Waker;

use ebbtide_runtime::Wakes;

use super::waiters::{Departure, WaiterKey, Waiters};

/// A message that consists of one datagram or several.
pub(super) trait Segmented: Sized {
    /// The number of datagrams, at least 1.
    fn count(&self) -> usize;

    /// Splits off the first datagram. Returns `None` if there is only one.
    fn split_off_first(&mut self) -> Option<Self>;
}

/// What a receiver is handed.
#[derive(Debug)]
pub(super) enum Arrival<M> {
    Datagrams(M),
    Error(io::Error),
}

/// How much a receiver takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    One,
    /// All datagrams of one message.
    Train,
}

/// An inbox of messages of type `M`. Those in the pool have the type `F` until they are opened.
#[derive(Debug)]
pub(super) struct Inbox<F, M> {
    /// The rest of a message of which a part was taken. It comes before everything else.
    rest: Option<M>,
    filled: VecDeque<F>,
    /// What is not in the pool. The number says how many of `filled`, counted from the beginning,
    /// come before it.
    unpooled: VecDeque<(u64, Arrival<M>)>,
    /// How many of `filled` have been taken.
    taken: u64,
    /// How many of `unpooled` are errors.
    errors: usize,
    waiters: Waiters,
    /// How many waiters had been woken when the last turn ended.
    woken_before: u64,
}

/// Whether something has arrived for a receiver that was woken, while others wait too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// No. Nothing waits to be taken, or no other receiver waits.
    Settled,
    /// Yes. Check again at the end of the next turn.
    Open,
}

impl<F, M> Default for Inbox<F, M> {
    fn default() -> Self {
        Self {
            rest: None,
            filled: VecDeque::new(),
            unpooled: VecDeque::new(),
            taken: 0,
            errors: 0,
            waiters: Waiters::default(),
            woken_before: 0,
        }
    }
}

impl<F, M: Segmented> Inbox<F, M> {
    /// Adds a message in the pool. Returns the waker of one waiter, even if it brings several
    /// datagrams. A receiver that leaves some of them wakes the next.
    #[inline]
    pub(super) fn push_filled(&mut self, filled: F) -> Option<Waker> {
        self.filled.push_back(filled);
        self.waiters.next_waker()
    }

    /// Adds several messages in the pool, at least one. Adds one waker for each to `wakes`.
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

    /// Adds a message that is not in the pool. Returns the waker of one waiter.
    pub(super) fn push(&mut self, message: M) -> Option<Waker> {
        self.push_unpooled(Arrival::Datagrams(message))
    }

    /// Adds an error. Returns the waker of one waiter.
    ///
    /// It replaces an error right before it, for which a waiter was woken already. The kernel, too,
    /// has one pending error per socket, and a storm of errors must not fill the memory during a
    /// drain.
    pub(super) fn push_error(&mut self, error: io::Error) -> Option<Waker> {
        let position = self.position();
        if let Some((after, Arrival::Error(last))) = self.unpooled.back_mut()
            && *after == position
        {
            *last = error;
            return None;
        }
        self.errors += 1;
        self.push_unpooled(Arrival::Error(error))
    }

    fn push_unpooled(&mut self, arrival: Arrival<M>) -> Option<Waker> {
        self.unpooled.push_back((self.position(), arrival));
        self.waiters.next_waker()
    }

    /// How many of `filled`, counted from the beginning, come before the next arrival.
    fn position(&self) -> u64 {
        self.taken + self.filled.len() as u64
    }

    /// The next message, if it is in the pool.
    #[inline]
    pub(super) fn next_filled(&self) -> Option<&F> {
        if self.rest.is_some() || !self.unpooled.is_empty() {
            return None;
        }
        self.filled.front()
    }

    /// Takes the message that [`next_filled`](Self::next_filled) returned.
    #[inline]
    pub(super) fn take_filled(&mut self) -> Option<F> {
        let filled = self.filled.pop_front()?;
        self.taken += 1;
        Some(filled)
    }

    /// Takes the next arrival. `open` opens a message in the pool. Also returns the waker of the
    /// next waiter, for the rest.
    pub(super) fn pop(
        &mut self,
        take: Take,
        open: impl FnOnce(F) -> M,
    ) -> Option<(Arrival<M>, Option<Waker>)> {
        let mut message = match self.rest.take() {
            Some(rest) => rest,
            None => match self.next(open)? {
                Arrival::Datagrams(message) => message,
                error @ Arrival::Error(_) => return Some((error, None)),
            },
        };
        if take == Take::One
            && let Some(first) = message.split_off_first()
        {
            self.rest = Some(message);
            return Some((Arrival::Datagrams(first), self.waiters.next_waker()));
        }
        Some((Arrival::Datagrams(message), None))
    }

    /// Takes the next arrival if it is an error that `wants` accepts.
    pub(super) fn take_error(
        &mut self,
        wants: impl FnOnce(&io::Error) -> bool,
    ) -> Option<io::Error> {
        let (after, Arrival::Error(error)) = self.unpooled.front()? else { return None };
        if self.rest.is_some() || *after != self.taken || !wants(error) {
            return None;
        }
        let Some((_, Arrival::Error(error))) = self.unpooled.pop_front() else {
            unreachable!("it was just seen");
        };
        self.errors -= 1;
        Some(error)
    }

    /// Takes the first arrival after the rest.
    fn next(&mut self, open: impl FnOnce(F) -> M) -> Option<Arrival<M>> {
        if let Some((after, _)) = self.unpooled.front()
            && *after == self.taken
        {
            let (_, arrival) = self.unpooled.pop_front()?;
            self.errors -= usize::from(matches!(arrival, Arrival::Error(_)));
            return Some(arrival);
        }
        self.take_filled().map(|filled| Arrival::Datagrams(open(filled)))
    }

    /// Opens all messages, and leaves each in its place.
    pub(super) fn open_all(&mut self, mut open: impl FnMut(F) -> M) {
        let arrivals: Vec<_> = iter::from_fn(|| self.next(&mut open)).collect();
        for arrival in arrivals {
            self.errors += usize::from(matches!(arrival, Arrival::Error(_)));
            self.unpooled.push_back((self.taken, arrival));
        }
    }

    /// Whether `pop` would return `None`.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.filled.is_empty() && self.unpooled.is_empty() && self.rest.is_none()
    }

    /// Whether `pop` would return a datagram.
    pub(super) fn is_next_datagram(&self) -> bool {
        match self.unpooled.front() {
            Some((after, Arrival::Error(_))) if *after == self.taken => self.rest.is_some(),
            _ => !self.is_empty(),
        }
    }

    /// The number of messages. Each takes a buffer, or as much memory.
    #[inline]
    pub(super) fn messages(&self) -> usize {
        self.filled.len() + self.unpooled.len() - self.errors + usize::from(self.rest.is_some())
    }

    /// The number of errors.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// The messages in the pool, which have not been opened.
    pub(super) fn filled(&self) -> impl ExactSizeIterator<Item = &F> {
        self.filled.iter()
    }

    /// The messages that have been opened.
    pub(super) fn opened(&self) -> impl Iterator<Item = &M> {
        let unpooled = self.unpooled.iter().filter_map(|(_, arrival)| match arrival {
            Arrival::Datagrams(message) => Some(message),
            Arrival::Error(_) => None,
        });
        self.rest.iter().chain(unpooled)
    }

    /// The number of datagrams. `count` returns that of a message in the pool.
    pub(super) fn datagrams(&self, count: impl Fn(&F) -> usize) -> usize {
        let unpooled = self.unpooled.iter().map(|(_, arrival)| match arrival {
            Arrival::Datagrams(message) => message.count(),
            Arrival::Error(_) => 0,
        });
        let rest = self.rest.as_ref().map_or(0, M::count);
        rest + unpooled.sum::<usize>() + self.filled.iter().map(count).sum::<usize>()
    }

    /// Whether a receiver waits that has not been woken.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiters.has_unwoken()
    }

    /// A receiver found nothing and waits: see [`Waiters::wait`].
    pub(super) fn wait(
        &mut self,
        key: Option<WaiterKey>,
        waker: Waker,
    ) -> (WaiterKey, Option<Waker>) {
        self.waiters.wait(key, waker)
    }

    /// A receiver was served and no longer waits.
    pub(super) fn served(&mut self, key: WaiterKey) -> Option<Waker> {
        self.waiters.leave(key).1
    }

    /// A receiver no longer waits, because its future was dropped. If it had been woken and there
    /// is something to take, the next one is to be woken. Returns a waker to wake and a waker to
    /// drop.
    pub(super) fn dropped(&mut self, key: WaiterKey) -> (Option<Waker>, Option<Waker>) {
        let (left, own) = self.waiters.leave(key);
        let next = match left {
            Departure::Woken if !self.is_empty() => self.waiters.next_waker(),
            Departure::Woken | Departure::Waiting => None,
        };
        (next, own)
    }

    /// The tasks that were ready have run.
    ///
    /// Receivers that were woken have come by now, unless they were woken in this turn, or their
    /// futures are kept and not polled. In that last case, wakes the next waiters instead, one for
    /// each message.
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

    /// Takes all wakers, because nothing will arrive any more and all waiters must learn that.
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        iter::from_fn(|| self.waiters.next_waker()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has as many datagrams as letters.
    impl Segmented for &'static str {
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

    /// A message in the pool, which has not been opened.
    struct Sealed(&'static str);

    type TestInbox = Inbox<Sealed, &'static str>;

    fn wait(inbox: &mut TestInbox) -> WaiterKey {
        inbox.wait(None, Waker::noop().clone()).0
    }

    /// Returns whether a waiter was woken.
    fn push(inbox: &mut TestInbox, datagrams: &'static str) -> bool {
        inbox.push_filled(Sealed(datagrams)).is_some()
    }

    /// Returns what was taken, and whether a waiter was woken for the rest.
    fn pop_and_wake(inbox: &mut TestInbox, take: Take) -> (&'static str, bool) {
        match inbox.pop(take, |sealed| sealed.0) {
            Some((Arrival::Datagrams(datagrams), next)) => (datagrams, next.is_some()),
            Some((Arrival::Error(_), next)) => ("error", next.is_some()),
            None => ("nothing", false),
        }
    }

    fn pop(inbox: &mut TestInbox, take: Take) -> &'static str {
        pop_and_wake(inbox, take).0
    }

    /// Datagrams, messages, errors.
    fn counts(inbox: &TestInbox) -> (usize, usize, usize) {
        (inbox.datagrams(|sealed| sealed.0.len()), inbox.messages(), inbox.errors())
    }

    /// In the pool, outside of it, and an error: `a`, `bcd`, `e`, an error, `f`.
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
            assert_eq!(pop(&mut inbox, Take::One), expected);
        }
        assert_eq!(counts(&inbox), (0, 0, 0));
        assert!(inbox.is_empty());
    }

    #[test]
    fn what_is_opened_early_keeps_its_place() {
        let mut inbox = mixed();
        assert_eq!(pop(&mut inbox, Take::One), "a");
        assert_eq!(pop(&mut inbox, Take::One), "b");
        inbox.open_all(|sealed| sealed.0);
        assert_eq!((inbox.filled().count(), counts(&inbox)), (0, (4, 3, 1)));
        push(&mut inbox, "g");
        for expected in ["c", "d", "e", "error", "f", "g", "nothing"] {
            assert_eq!(pop(&mut inbox, Take::One), expected);
        }
    }

    /// Fails when the fast path overtakes messages outside the pool.
    #[test]
    fn the_short_way_overtakes_nothing() {
        let mut inbox = TestInbox::default();
        push(&mut inbox, "ab");
        assert!(inbox.next_filled().is_some());
        assert_eq!(pop(&mut inbox, Take::One), "a");
        push(&mut inbox, "c");
        assert!(inbox.next_filled().is_none(), "`b` comes first");
        assert_eq!(pop(&mut inbox, Take::One), "b");
        assert!(inbox.next_filled().is_some());
        inbox.push("d");
        assert!(inbox.next_filled().is_none());
        for expected in ["c", "d", "nothing"] {
            assert_eq!(pop(&mut inbox, Take::One), expected);
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
        let Some((Arrival::Error(first), _)) = inbox.pop(Take::One, |sealed| sealed.0) else {
            panic!("an error comes first");
        };
        assert_eq!(first.kind(), io::ErrorKind::HostUnreachable);
        for expected in ["a", "error", "nothing"] {
            assert_eq!(pop(&mut inbox, Take::One), expected);
        }
    }

    #[test]
    fn the_rest_of_a_train_can_be_taken_whole() {
        let mut inbox = TestInbox::default();
        push(&mut inbox, "abcd");
        assert_eq!(pop(&mut inbox, Take::One), "a");
        assert_eq!(counts(&inbox), (3, 1, 0));
        assert_eq!(pop(&mut inbox, Take::Train), "bcd");
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

    /// Fails when a train wakes only one waiter, and the others go on waiting.
    #[test]
    fn whoever_leaves_some_of_a_train_wakes_the_next() {
        let mut inbox = TestInbox::default();
        for _ in 0..3 {
            wait(&mut inbox);
        }
        assert!(push(&mut inbox, "abc"));
        assert_eq!(pop_and_wake(&mut inbox, Take::One), ("a", true));
        assert_eq!(pop_and_wake(&mut inbox, Take::One), ("b", true));
        assert_eq!(pop_and_wake(&mut inbox, Take::One), ("c", false));
        assert!(!push(&mut inbox, "d"), "all three have been woken");
    }

    /// Fails when a dropped waiter does not pass its wake on.
    #[test]
    fn a_woken_waiter_that_is_dropped_passes_its_wake_on() {
        let mut inbox = TestInbox::default();
        let first = wait(&mut inbox);
        wait(&mut inbox);
        assert!(push(&mut inbox, "a"));
        let (next, _) = inbox.dropped(first);
        assert!(next.is_some(), "the second waiter is woken for the datagram");
    }

    /// Ends a turn. Returns the answer, and how many waiters were woken.
    fn end_turn(inbox: &mut TestInbox) -> (Claim, usize) {
        let before = inbox.waiters.woken();
        let claim = inbox.turn_ends(&mut Wakes::default());
        (claim, (inbox.waiters.woken() - before) as usize)
    }

    /// Fails when an arrival waits forever for a waiter that is not polled, or when another is
    /// woken before that one could be polled.
    #[test]
    fn who_was_woken_and_does_not_come_is_passed_over() {
        let mut inbox = TestInbox::default();
        for _ in 0..4 {
            wait(&mut inbox);
        }
        assert!(push(&mut inbox, "a"));
        assert_eq!(
            end_turn(&mut inbox),
            (Claim::Open, 0),
            "the waiter may still come in this turn"
        );
        assert_eq!(end_turn(&mut inbox), (Claim::Open, 1), "the waiter did not come");
        inbox.push_error(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(end_turn(&mut inbox), (Claim::Open, 0), "a waiter was woken in this turn");
        assert_eq!(end_turn(&mut inbox), (Claim::Open, 1), "no other waiter is left to wake");
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
            assert_eq!(pop(&mut inbox, Take::One), expected);
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
        pop(&mut inbox, Take::One);
        assert!(inbox.dropped(first).0.is_none());
    }
}
