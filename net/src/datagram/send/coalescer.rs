//! [`Coalescer`]: sends that wait to leave together. Pure, except that it stores wakers.
//!
//! The endpoint sends all of them when the tasks that were ready have run. Whether a future is then
//! polled, kept or forgotten makes no difference to the others. Each send has a ticket, with which
//! its future asks for the result. Of a send that has left, only the result is kept.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::task::Waker;

use slab::Slab;

use super::plan::Transmit;

/// Memory for payloads that is kept while no send waits, in bytes. It exceeds what leaves together
/// in most programs, because a send buffer of the default size holds less.
const MAX_KEPT: usize = 1 << 20;

/// The number of sends for which memory is kept while there are none.
const MAX_SENDS_KEPT: usize = 4_096;

/// Identifies one send until its future has the result or was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(usize);

#[derive(Debug, Default)]
pub(super) struct Coalescer {
    sends: Slab<Send>,
    /// The sends that wait, in order.
    waiting: VecDeque<Ticket>,
    /// The payloads of the sends that wait, in order, and of some that no longer wait.
    bytes: Vec<u8>,
    /// How many of `bytes` belong to sends that wait.
    wanted: usize,
}

#[derive(Debug)]
enum Send {
    Waiting {
        to: Option<SocketAddr>,
        range: Range<usize>,
        waker: Waker,
    },
    /// The send is over. The future has not taken the result yet.
    Dealt {
        result: io::Result<usize>,
    },
}

/// The answer to a future that asks for its result.
#[derive(Debug)]
pub(super) enum Answer {
    Result(io::Result<usize>),
    /// The future is woken when there is a result.
    Wait,
}

impl Coalescer {
    /// Whether any send waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Adds a send. `waker` is woken when it has a result.
    pub(super) fn push(&mut self, payload: &[u8], to: Option<SocketAddr>, waker: Waker) -> Ticket {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        self.wanted += payload.len();
        let range = start..self.bytes.len();
        let ticket = Ticket(self.sends.insert(Send::Waiting { to, range, waker }));
        self.waiting.push_back(ticket);
        ticket
    }

    /// Returns the result, or stores `waker` to be woken. A waker that is returned must be dropped
    /// when nothing is borrowed.
    pub(super) fn ask(&mut self, ticket: Ticket, waker: Waker) -> (Answer, Option<Waker>) {
        if let Send::Waiting { waker: known, .. } = &mut self.sends[ticket.0] {
            return (Answer::Wait, Some(std::mem::replace(known, waker)));
        }
        match self.remove(ticket) {
            Send::Dealt { result } => (Answer::Result(result), Some(waker)),
            Send::Waiting { .. } => unreachable!("it was just seen"),
        }
    }

    fn remove(&mut self, ticket: Ticket) -> Send {
        let send = self.sends.remove(ticket.0);
        if self.sends.is_empty() && self.sends.capacity() > MAX_SENDS_KEPT {
            self.sends.shrink_to_fit();
            self.waiting.shrink_to(MAX_SENDS_KEPT);
        }
        send
    }

    /// All sends that wait, in order.
    pub(super) fn waiting(&self) -> Vec<Transmit<'_>> {
        let transmits = self.waiting.iter().map(|ticket| match &self.sends[ticket.0] {
            Send::Waiting { to: Some(to), range, .. } => {
                Transmit::to(&self.bytes[range.clone()], *to)
            }
            Send::Waiting { to: None, range, .. } => Transmit::new(&self.bytes[range.clone()]),
            Send::Dealt { .. } => unreachable!("it waits"),
        });
        transmits.collect()
    }

    /// The first sends have left or failed: one for each of `results`. Returns the wakers to wake.
    pub(super) fn deal(&mut self, results: Vec<io::Result<usize>>) -> Vec<Waker> {
        let dealt = self.waiting.drain(..results.len()).zip(results);
        let wakers = dealt
            .map(|(ticket, result)| {
                let send = &mut self.sends[ticket.0];
                match std::mem::replace(send, Send::Dealt { result }) {
                    Send::Waiting { range, waker, .. } => {
                        self.wanted -= range.len();
                        waker
                    }
                    Send::Dealt { .. } => unreachable!("a send has one result"),
                }
            })
            .collect();
        self.give_back();
        wakers
    }

    /// No send that waits will leave. Returns the wakers to wake.
    pub(super) fn fail(&mut self, error: impl Fn() -> io::Error) -> Vec<Waker> {
        self.deal(self.waiting.iter().map(|_| Err(error())).collect())
    }

    /// A future was dropped. Its send is removed unless it has left. A waker that is returned must
    /// be dropped when nothing is borrowed.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        match self.remove(ticket) {
            Send::Waiting { range, waker, .. } => {
                let at = self.waiting.iter().position(|waiting| *waiting == ticket);
                self.waiting.remove(at.expect("it waits"));
                self.wanted -= range.len();
                self.give_back();
                Some(waker)
            }
            Send::Dealt { .. } => None,
        }
    }

    /// Frees the memory of payloads that are no longer needed, if it exceeds the rest. So each byte
    /// is moved once, on average.
    fn give_back(&mut self) {
        if self.bytes.len() - self.wanted <= self.wanted && self.is_waiting() {
            return;
        }
        let mut end = 0;
        for ticket in &self.waiting {
            let Send::Waiting { range, .. } = &mut self.sends[ticket.0] else {
                unreachable!("it waits");
            };
            let moved = end..end + range.len();
            self.bytes.copy_within(range.clone(), end);
            end = moved.end;
            *range = moved;
        }
        self.bytes.truncate(end);
        self.bytes.shrink_to(MAX_KEPT.max(2 * end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(coalescer: &mut Coalescer, payload: &str) -> Ticket {
        coalescer.push(payload.as_bytes(), None, Waker::noop().clone())
    }

    fn ask(coalescer: &mut Coalescer, ticket: Ticket) -> Answer {
        coalescer.ask(ticket, Waker::noop().clone()).0
    }

    /// Deals with the first `count`. Returns the number of wakers.
    fn deal(coalescer: &mut Coalescer, count: usize) -> usize {
        coalescer.deal((0..count).map(Ok).collect()).len()
    }

    fn waiting(coalescer: &Coalescer) -> Vec<&[u8]> {
        coalescer.waiting().iter().map(Transmit::contents).collect()
    }

    #[test]
    fn each_send_gets_its_own_result() {
        let mut coalescer = Coalescer::default();
        let tickets = ["a", "bc"].map(|payload| push(&mut coalescer, payload));
        assert!(matches!(ask(&mut coalescer, tickets[0]), Answer::Wait));
        assert_eq!(waiting(&coalescer), [&b"a"[..], b"bc"]);
        let refused = io::ErrorKind::ConnectionRefused.into();
        assert_eq!(coalescer.deal(vec![Ok(1), Err(refused)]).len(), 2);
        assert!(matches!(ask(&mut coalescer, tickets[1]), Answer::Result(Err(_))));
        assert!(matches!(ask(&mut coalescer, tickets[0]), Answer::Result(Ok(1))));
        assert!(coalescer.sends.is_empty() && coalescer.bytes.is_empty());
    }

    #[test]
    fn a_send_whose_future_is_dropped_does_not_leave() {
        let mut coalescer = Coalescer::default();
        let tickets = ["a", "b", "c"].map(|payload| push(&mut coalescer, payload));
        assert!(coalescer.leave(tickets[1]).is_some());
        assert!(coalescer.leave(tickets[0]).is_some());
        assert_eq!(waiting(&coalescer), [b"c"]);
    }

    #[test]
    fn a_future_dropped_after_its_send_changes_nothing() {
        let mut coalescer = Coalescer::default();
        let tickets = ["a", "b"].map(|payload| push(&mut coalescer, payload));
        assert_eq!(deal(&mut coalescer, 2), 2);
        assert!(coalescer.leave(tickets[0]).is_none());
        assert!(matches!(ask(&mut coalescer, tickets[1]), Answer::Result(Ok(1))));
    }

    #[test]
    fn where_nothing_can_leave_any_more_everybody_is_told() {
        let mut coalescer = Coalescer::default();
        let tickets = ["a", "b"].map(|payload| push(&mut coalescer, payload));
        assert_eq!(deal(&mut coalescer, 1), 1);
        assert_eq!(coalescer.fail(|| io::ErrorKind::NotConnected.into()).len(), 1);
        assert!(matches!(ask(&mut coalescer, tickets[0]), Answer::Result(Ok(0))));
        assert!(matches!(ask(&mut coalescer, tickets[1]), Answer::Result(Err(_))));
    }

    /// Some sends always wait. Fails when the payloads of sends that have left stay in memory, or
    /// when a send that waits gets the payload of another.
    #[test]
    fn memory_is_given_back_while_others_wait() {
        // Miri runs it thousands of times slower.
        const LEN: usize = if cfg!(miri) { 20 } else { 1_000 };
        const SENDS: usize = if cfg!(miri) { 100 } else { 1_000 };
        let mut coalescer = Coalescer::default();
        let payload = |number: usize| format!("{number:0LEN$}");
        let mut futures = VecDeque::new();
        for number in 0..SENDS {
            futures.push_back((number, push(&mut coalescer, &payload(number))));
            match number % 7 {
                0 => {}
                // One in the middle is dropped.
                3 => {
                    let (_, ticket) = futures.remove(futures.len() / 2).unwrap();
                    coalescer.leave(ticket);
                }
                _ => {
                    let (_, ticket) = futures.pop_front().unwrap();
                    deal(&mut coalescer, 1);
                    assert!(matches!(ask(&mut coalescer, ticket), Answer::Result(Ok(0))));
                }
            }
            let expected: Vec<_> = futures.iter().map(|(number, _)| payload(*number)).collect();
            assert_eq!(
                waiting(&coalescer),
                expected.iter().map(String::as_bytes).collect::<Vec<_>>()
            );
            assert!(coalescer.bytes.len() <= 2 * LEN * futures.len(), "{number}");
        }
    }

    /// Fails when a future that is kept after its send has left keeps the memory of later sends.
    #[test]
    fn a_result_that_nobody_takes_keeps_nothing_else() {
        let mut coalescer = Coalescer::default();
        let _forgotten = push(&mut coalescer, "forgotten");
        deal(&mut coalescer, 1);
        for _ in 0..1_000 {
            let ticket = push(&mut coalescer, "taken");
            deal(&mut coalescer, 1);
            ask(&mut coalescer, ticket);
        }
        assert_eq!((coalescer.sends.len(), coalescer.bytes.len()), (1, 0));
        assert!(coalescer.sends.capacity() < 100);
    }

    #[test]
    #[cfg_attr(miri, ignore = "thousands of sends, which Miri runs thousands of times slower")]
    fn the_memory_of_a_burst_is_given_back() {
        let mut coalescer = Coalescer::default();
        let payload = "x".repeat(MAX_KEPT);
        let long = [(); 4].map(|()| push(&mut coalescer, &payload));
        deal(&mut coalescer, 4);
        assert!(coalescer.bytes.capacity() <= 2 * MAX_KEPT);
        let many: Vec<_> = (0..4 * MAX_SENDS_KEPT).map(|_| push(&mut coalescer, "")).collect();
        deal(&mut coalescer, many.len());
        for ticket in many.into_iter().chain(long) {
            ask(&mut coalescer, ticket);
        }
        let places = (coalescer.sends.capacity(), coalescer.waiting.capacity());
        assert!(places.0 + places.1 <= 4 * MAX_SENDS_KEPT, "{places:?}");
    }
}
