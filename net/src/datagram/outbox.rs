//! Sends that wait to leave together. Pure, but for the wakers that it keeps.
//!
//! Each send has a ticket. The first that waits leads: its future sends for all, when it is polled
//! again, which is after all tasks that were ready beside it. Who leads and gives up hands on.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::task::Waker;

use super::transmit::Transmit;

/// Names one send; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) struct Ticket(u64);

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// In the order in which they are to leave: those with a result first, then those that wait.
    sends: VecDeque<Send>,
    /// The ticket of the first of `sends`.
    first: u64,
    /// The payloads of those that wait.
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Send {
    to: Option<SocketAddr>,
    range: Range<usize>,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting {
        waker: Waker,
    },
    /// The future has not yet taken the result.
    Dealt {
        result: io::Result<usize>,
    },
    /// The future has its result, or was dropped.
    Gone,
}

/// What a future learns that asks for its result.
#[derive(Debug)]
pub(super) enum Asked {
    Result(io::Result<usize>),
    /// It is its turn to send for all.
    Lead,
    /// Another one leads, and will wake it.
    Wait,
}

impl Outbox {
    /// Whether some wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.leader().is_some()
    }

    /// Takes in a send, to be asked for at once or when `waker` is woken.
    pub(super) fn push(&mut self, payload: &[u8], to: Option<SocketAddr>, waker: Waker) -> Ticket {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        let range = start..self.bytes.len();
        self.sends.push_back(Send { to, range, state: State::Waiting { waker } });
        Ticket(self.first + self.sends.len() as u64 - 1)
    }

    /// A future asks for its result. A waker that is returned is to be dropped when nothing is
    /// borrowed.
    pub(super) fn ask(&mut self, ticket: Ticket, waker: Waker) -> (Asked, Option<Waker>) {
        if self.leads(ticket) {
            return (Asked::Lead, Some(waker));
        }
        let send = self.send(ticket);
        match &mut send.state {
            State::Waiting { waker: known } => (Asked::Wait, Some(std::mem::replace(known, waker))),
            State::Dealt { .. } => {
                let State::Dealt { result } = std::mem::replace(&mut send.state, State::Gone)
                else {
                    unreachable!("it was just seen");
                };
                self.tidy();
                (Asked::Result(result), Some(waker))
            }
            State::Gone => unreachable!("a future asks once for its result"),
        }
    }

    /// All that wait, in order.
    pub(super) fn waiting(&self) -> (Vec<Ticket>, Vec<Transmit<'_>>) {
        let waiting = (self.first..).zip(&self.sends);
        waiting
            .filter(|(_, send)| matches!(send.state, State::Waiting { .. }))
            .map(|(number, send)| {
                let contents = &self.bytes[send.range.clone()];
                let transmit = match send.to {
                    Some(to) => Transmit::to(contents, to),
                    None => Transmit::new(contents),
                };
                (Ticket(number), transmit)
            })
            .unzip()
    }

    /// A send has left, or failed: returns whom to wake.
    pub(super) fn deal(&mut self, ticket: Ticket, result: io::Result<usize>) -> Option<Waker> {
        match std::mem::replace(&mut self.send(ticket).state, State::Dealt { result }) {
            State::Waiting { waker } => Some(waker),
            State::Dealt { .. } | State::Gone => unreachable!("a send is dealt with once"),
        }
    }

    /// Whether it is the turn of `ticket` to send for all.
    pub(super) fn leads(&self, ticket: Ticket) -> bool {
        self.leader() == Some(ticket)
    }

    /// The waker of the future that leads now.
    pub(super) fn next_leader(&self) -> Option<Waker> {
        let leader = self.leader()?;
        match &self.sends[(leader.0 - self.first) as usize].state {
            State::Waiting { waker } => Some(waker.clone()),
            State::Dealt { .. } | State::Gone => unreachable!("who leads, waits"),
        }
    }

    /// A future was dropped: its send does not take place, unless it has. Returns whom to wake, and
    /// a waker to drop.
    pub(super) fn leave(&mut self, ticket: Ticket) -> (Option<Waker>, Option<Waker>) {
        let led = self.leads(ticket);
        let state = std::mem::replace(&mut self.send(ticket).state, State::Gone);
        self.tidy();
        let own = match state {
            State::Waiting { waker } => Some(waker),
            State::Dealt { .. } | State::Gone => None,
        };
        (if led { self.next_leader() } else { None }, own)
    }

    /// The first that waits.
    fn leader(&self) -> Option<Ticket> {
        let waits = |send: &Send| matches!(send.state, State::Waiting { .. });
        let at = self.sends.iter().position(waits)?;
        Some(Ticket(self.first + at as u64))
    }

    fn send(&mut self, ticket: Ticket) -> &mut Send {
        &mut self.sends[(ticket.0 - self.first) as usize]
    }

    /// Forgets those at the front of which nobody wants anything, and the payloads when no one
    /// waits.
    fn tidy(&mut self) {
        while matches!(self.sends.front(), Some(Send { state: State::Gone, .. })) {
            self.sends.pop_front();
            self.first += 1;
        }
        if !self.is_waiting() {
            self.bytes.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(outbox: &mut Outbox, payload: &str) -> Ticket {
        outbox.push(payload.as_bytes(), None, Waker::noop().clone())
    }

    fn ask(outbox: &mut Outbox, ticket: Ticket) -> Asked {
        outbox.ask(ticket, Waker::noop().clone()).0
    }

    fn deal_all(outbox: &mut Outbox) -> usize {
        let (tickets, _) = outbox.waiting();
        tickets.iter().filter(|ticket| outbox.deal(**ticket, Ok(1)).is_some()).count()
    }

    #[test]
    fn the_first_leads_and_each_gets_its_own_result() {
        let mut outbox = Outbox::default();
        let tickets = ["a", "bc"].map(|payload| push(&mut outbox, payload));
        assert!(matches!(ask(&mut outbox, tickets[0]), Asked::Lead));
        assert!(matches!(ask(&mut outbox, tickets[1]), Asked::Wait));
        let (waiting, transmits) = outbox.waiting();
        assert_eq!((&waiting[..], transmits[1].len()), (&tickets[..], 2));
        assert!(outbox.deal(tickets[0], Ok(1)).is_some());
        assert!(outbox.deal(tickets[1], Err(io::ErrorKind::ConnectionRefused.into())).is_some());
        assert!(matches!(ask(&mut outbox, tickets[1]), Asked::Result(Err(_))));
        assert!(matches!(ask(&mut outbox, tickets[0]), Asked::Result(Ok(1))));
        assert!(outbox.sends.is_empty() && outbox.bytes.is_empty());
    }

    /// Fails when a leader that is dropped leads on: the others would wait for ever.
    #[test]
    fn a_leader_that_gives_up_hands_on_and_is_not_sent() {
        let mut outbox = Outbox::default();
        let tickets = ["a", "b", "c"].map(|payload| push(&mut outbox, payload));
        assert!(outbox.leave(tickets[1]).0.is_none(), "it did not lead");
        assert!(outbox.leave(tickets[0]).0.is_some());
        assert!(matches!(ask(&mut outbox, tickets[2]), Asked::Lead));
        assert_eq!(outbox.waiting().0, [tickets[2]]);
    }

    #[test]
    fn a_future_dropped_after_its_send_changes_nothing() {
        let mut outbox = Outbox::default();
        let tickets = ["a", "b"].map(|payload| push(&mut outbox, payload));
        assert_eq!(deal_all(&mut outbox), 2);
        let (next, own) = outbox.leave(tickets[0]);
        assert!(next.is_none() && own.is_none());
        assert!(matches!(ask(&mut outbox, tickets[1]), Asked::Result(Ok(1))));
    }

    #[test]
    fn who_comes_after_a_full_buffer_leads_next() {
        let mut outbox = Outbox::default();
        let tickets = ["a", "b"].map(|payload| push(&mut outbox, payload));
        outbox.deal(tickets[0], Ok(1));
        assert!(outbox.next_leader().is_some());
        assert!(matches!(ask(&mut outbox, tickets[1]), Asked::Lead));
        let later = push(&mut outbox, "c");
        assert!(matches!(ask(&mut outbox, later), Asked::Wait));
    }
}
