//! The receive machine: what to do with a socket's receive.
//!
//! It is pure. Its input is completions, what receivers took, and requests to stop. It answers what
//! the driver must do.
//!
//! ```text
//!            start                 over its share
//!   Idle ------------> Armed ----------------------> Cancelling(Pause) --final--> Paused
//!                     ^  |  ^                                                       |
//!        error taken  |  | error            receivers have taken half of it         |
//!                     |  v                 <----------------------------------------+
//!                    Faulted
//!
//!   any ----seal----> Cancelling(Read) --final--> Reading --EAGAIN--> Drained
//!                                                  |   ^
//!                                  errors in a row |   | another drain
//!                                                  v   |
//!                                                 GivenUp
//!   any ----end-----> Cancelling(End) --final--> Drained
//!   any ----leave---> Cancelling(Leave) --final--> Idle
//!
//!   Armed --interrupt--> Cancelling(Leave) --final--> Idle --resume--> Armed
//!
//!   Idle --start_when_asked--> Unasked --asked--> Armed
//! ```
//!
//! Invariant: every final completion leads to a decision here. A socket that is not armed again
//! never receives again (docs/kernel.md, K-RECV-1).
//!
//! While the machine is `Armed`, the driver has the receive: in flight, or waiting for buffers.

use ebbtide_runtime::driver::{Armed, Verdict};
use ebbtide_runtime::limits::MAX_DRAIN_ERRORS;

#[derive(Debug)]
pub(crate) struct ReceiveMachine {
    state: State,
    /// Consecutive errors while reading.
    errors: u32,
    /// How often the receive was paused.
    pauses: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not started, or handed back to the user.
    Idle,
    /// Started when somebody asks for a datagram, because what is queued belongs to others as well.
    Unasked,
    /// The driver has the receive.
    Armed,
    /// A cancel is in flight. Datagrams come until the final completion.
    Cancelling(Then),
    /// Not armed, because the inbox holds its share of the pool.
    Paused,
    /// Not armed, because an error waits to be taken. There is at most one error per arming.
    /// Otherwise a socket that cannot receive at all would fail in a loop.
    Faulted,
    /// Sealed and reaped. The rest of the kernel's queue is read directly.
    Reading,
    /// No datagram will come any more.
    Drained,
    /// No datagram will come any more, but the queue was not read to its end, or did not end there.
    /// Another drain reads on.
    GivenUp,
}

/// What follows a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Pause,
    Read,
    /// No more datagrams: what is queued is left to others who hold the socket.
    End,
    Leave,
}

/// The result of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Datagram,
    /// The pool was empty, and nothing was taken from the socket.
    OutOfBuffers,
    /// The receive ended for a reason that needs no handling: a cancel, a signal, a wake-up for
    /// nothing.
    Ended,
    /// An error for the receiver.
    Error,
}

/// How many messages a socket holds, and how many buffers are free.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occupancy {
    /// Messages in its inbox.
    pub(crate) queued: usize,
    /// Free buffers in the pool.
    pub(crate) free: usize,
}

impl Occupancy {
    /// Whether the socket holds more than its share, which is as many buffers as are free. It is
    /// the dynamic threshold of shared-memory switches. A single busy socket can hold half of the
    /// pool. However many sockets are not read, some buffers stay free for the others.
    fn is_over_share(self) -> bool {
        self.queued > self.free
    }

    /// With hysteresis, so that a full inbox is not re-armed for every datagram that is taken.
    fn is_well_below_share(self) -> bool {
        self.queued <= self.free / 2
    }
}

/// Where a datagram waits for its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Pool,
    /// In separate memory, because the socket already holds its share of the pool.
    Outside,
}

/// The result of a direct read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// This many datagrams.
    Datagrams(usize),
    /// A pending socket error. Returning it has cleared it.
    Error,
    Interrupted,
    /// `EAGAIN` from a plain `recvmsg`, the only proof of an empty queue (docs/kernel.md, K-UDP-3).
    Empty,
}

/// Whether to read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOn {
    Yes,
    No,
}

impl ReceiveMachine {
    pub(crate) fn new() -> Self {
        Self { state: State::Idle, errors: 0, pauses: 0 }
    }

    /// The socket is open, and its receive is armed for the first time.
    pub(crate) fn start(&mut self) {
        let is_new = matches!(self.state, State::Idle | State::Unasked);
        assert!(is_new, "a receive is started once");
        self.state = State::Armed;
    }

    /// The receive is to be armed when somebody asks for a datagram. It is not in flight.
    pub(crate) fn start_when_asked(&mut self) {
        if self.state == State::Idle {
            self.state = State::Unasked;
        }
    }

    /// Whether the receive waits for somebody to ask.
    pub(crate) fn is_unasked(&self) -> bool {
        self.state == State::Unasked
    }

    /// Handles a completion. `occupancy` includes its datagram.
    #[inline]
    pub(crate) fn complete(
        &mut self,
        outcome: Outcome,
        armed: Armed,
        occupancy: Occupancy,
    ) -> Verdict {
        match (self.state, armed) {
            (State::Armed, Armed::Still) => self.check_share(occupancy),
            (State::Armed, Armed::NoMore) => self.ended(outcome, occupancy),
            (State::Cancelling(_), Armed::Still) => Verdict::Keep,
            (State::Cancelling(then), Armed::NoMore) => {
                self.state = match then {
                    Then::Pause => return self.paused(occupancy),
                    Then::Read => State::Reading,
                    Then::End => State::Drained,
                    Then::Leave => State::Idle,
                };
                Verdict::Keep
            }
            (State::Idle | State::Unasked | State::Paused | State::Faulted, _)
            | (State::Reading | State::Drained | State::GivenUp, _) => {
                unreachable!("a completion in {:?}, in which nothing is in flight", self.state)
            }
        }
    }

    fn check_share(&mut self, occupancy: Occupancy) -> Verdict {
        if !occupancy.is_over_share() {
            return Verdict::Keep;
        }
        self.pauses += 1;
        self.state = State::Cancelling(Then::Pause);
        Verdict::Cancel
    }

    fn ended(&mut self, outcome: Outcome, occupancy: Occupancy) -> Verdict {
        match outcome {
            Outcome::Datagram if occupancy.is_over_share() => {
                self.pauses += 1;
                self.state = State::Paused;
                Verdict::Keep
            }
            // An empty datagram, a full completion queue or a signal has ended the receive.
            Outcome::Datagram | Outcome::Ended => Verdict::Rearm,
            Outcome::OutOfBuffers => Verdict::RearmWhenBuffersReturn,
            Outcome::Error => {
                self.state = State::Faulted;
                Verdict::Keep
            }
        }
    }

    /// The final completion of a pause. Receivers may have emptied the inbox before it came.
    fn paused(&mut self, occupancy: Occupancy) -> Verdict {
        if occupancy.queued > 0 {
            self.state = State::Paused;
            return Verdict::Keep;
        }
        self.state = State::Armed;
        Verdict::Rearm
    }

    /// Whether the receive may go on when receivers take something.
    #[inline]
    pub(crate) fn waits_for_receivers(&self) -> bool {
        matches!(self.state, State::Paused | State::Faulted)
    }

    /// A receiver took something from the inbox, in which `errors` errors are left.
    pub(crate) fn taken(&mut self, occupancy: Occupancy, errors: usize) -> Verdict {
        let resume = match self.state {
            State::Paused => occupancy.queued == 0 || occupancy.is_well_below_share(),
            State::Faulted => errors == 0,
            _ => false,
        };
        if !resume {
            return Verdict::Keep;
        }
        self.state = State::Armed;
        Verdict::Rearm
    }

    /// Where a datagram that arrives waits. `occupancy` includes it.
    #[inline]
    pub(crate) fn place(&self, occupancy: Occupancy) -> Place {
        match self.state {
            State::Cancelling(Then::Pause) | State::Paused => Place::Outside,
            _ if occupancy.is_over_share() => Place::Outside,
            _ => Place::Pool,
        }
    }

    /// How often the socket stopped because it held its share.
    pub(crate) fn pauses(&self) -> u64 {
        self.pauses
    }

    /// Ends the receive. `then` says what follows.
    pub(crate) fn stop(&mut self, then: Then) -> Verdict {
        match (self.state, then) {
            (State::Armed, _) => {
                self.state = State::Cancelling(then);
                return Verdict::Cancel;
            }
            (State::Cancelling(_), _) => self.state = State::Cancelling(then),
            (State::Reading | State::Drained, _) => {}
            // Nothing is in flight.
            (_, Then::Read) => {
                self.errors = 0;
                self.state = State::Reading;
            }
            (_, Then::End) => self.state = State::Drained,
            (State::GivenUp, _) => {}
            (State::Idle | State::Unasked | State::Paused | State::Faulted, _) => {
                self.state = State::Idle;
            }
        }
        Verdict::Keep
    }

    /// Ends the receive until [`resume`](Self::resume). Does nothing if it is not armed.
    pub(crate) fn interrupt(&mut self) -> Verdict {
        match self.state {
            State::Armed | State::Cancelling(Then::Pause) => self.stop(Then::Leave),
            _ => Verdict::Keep,
        }
    }

    /// Continues the receive after [`interrupt`](Self::interrupt).
    pub(crate) fn resume(&mut self) -> Verdict {
        match self.state {
            State::Idle => {
                self.state = State::Armed;
                return Verdict::Rearm;
            }
            // The final completion has not come yet. It will lead to a decision.
            State::Cancelling(Then::Leave) => self.state = State::Cancelling(Then::Pause),
            _ => {}
        }
        Verdict::Keep
    }

    /// The driver reports that nothing is in flight. The receive was waiting for buffers when it
    /// was stopped, so no final completion will come.
    pub(crate) fn reaped(&mut self) {
        if let State::Cancelling(then) = self.state {
            self.state = match then {
                Then::Pause => State::Paused,
                Then::Read => State::Reading,
                Then::End => State::Drained,
                Then::Leave => State::Idle,
            };
        }
    }

    /// Whether the socket is to be read directly now.
    pub(crate) fn is_reading(&self) -> bool {
        self.state == State::Reading
    }

    /// Whether a cancel is in flight.
    pub(crate) fn is_cancelling(&self) -> bool {
        matches!(self.state, State::Cancelling(_))
    }

    /// Whether no datagram will come any more.
    pub(crate) fn is_drained(&self) -> bool {
        matches!(self.state, State::Drained | State::GivenUp)
    }

    /// Whether the queue could not be read to its end.
    pub(crate) fn is_given_up(&self) -> bool {
        self.state == State::GivenUp
    }

    /// Handles the result of a direct read.
    pub(crate) fn read(&mut self, read: Read) -> ReadOn {
        assert_eq!(self.state, State::Reading, "only a reaped socket is read directly");
        self.errors = if read == Read::Error { self.errors + 1 } else { 0 };
        if read == Read::Empty {
            self.state = State::Drained;
        } else if self.errors >= MAX_DRAIN_ERRORS {
            self.give_up();
        } else {
            return ReadOn::Yes;
        }
        ReadOn::No
    }

    /// The socket has no seal, so the end of its queue was not final. The next drain reads on.
    pub(crate) fn reopen(&mut self) {
        if self.state == State::Drained {
            self.state = State::GivenUp;
        }
    }

    /// Stops reading, even if more is queued.
    pub(crate) fn give_up(&mut self) {
        self.state = State::GivenUp;
    }
}

/// For `states.rs` and `unix_states.rs`.
#[cfg(test)]
impl ReceiveMachine {
    pub(crate) fn state(&self) -> String {
        format!("{:?}", self.state)
    }

    /// Does what happens when the inbox holds more than its share.
    pub(crate) fn pause(&mut self) -> Verdict {
        self.check_share(Occupancy { queued: 2, free: 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EASY: Occupancy = Occupancy { queued: 1, free: 100 };
    const FULL: Occupancy = Occupancy { queued: 51, free: 50 };

    fn armed() -> ReceiveMachine {
        let mut machine = ReceiveMachine::new();
        machine.start();
        machine
    }

    /// Whether a batch of `count` fits into the pool. The pool has `unheld` buffers without the
    /// batch, `queued` messages wait already, and `claimed` are held outside the pool. If the batch
    /// fits, asserts that the messages before the last fit too.
    fn fits(state: State, queued: usize, unheld: usize, claimed: usize, count: usize) -> bool {
        let occupancy = |arrived: usize| Occupancy {
            queued: queued + arrived,
            free: (unheld - arrived).saturating_sub(claimed),
        };
        let mut machine = ReceiveMachine { state, ..ReceiveMachine::new() };
        if machine.place(occupancy(count)) == Place::Outside {
            return false;
        }
        for arrived in 1..=count {
            let occupancy = occupancy(arrived);
            assert_eq!(
                machine.place(occupancy),
                Place::Pool,
                "{state:?}: {occupancy:?} of {count}"
            );
            let verdict = machine.complete(Outcome::Datagram, Armed::Still, occupancy);
            assert_eq!(verdict, Verdict::Keep, "{state:?}: {occupancy:?} of {count}");
        }
        assert_eq!(machine.state, state);
        true
    }

    /// Whether a batch fits is decided by its last message alone. Fails when a message before it
    /// would have left the pool, or stopped the receive.
    #[test]
    fn where_the_last_of_a_batch_has_room_those_before_it_have() {
        let cancelling = [Then::Pause, Then::Read, Then::Leave].map(State::Cancelling);
        for state in cancelling.into_iter().chain([State::Armed]) {
            let mut fitting = 0;
            for (queued, unheld, claimed) in
                (0..8 * 8 * 4).map(|number| (number % 8, number / 8 % 8, number / 64))
            {
                let counts = 1..=unheld;
                fitting += counts.filter(|&n| fits(state, queued, unheld, claimed, n)).count();
            }
            assert_eq!(fitting > 0, state != State::Cancelling(Then::Pause), "{state:?}");
        }
    }

    /// Fails when the end of a multishot receive is not handled.
    #[test]
    fn every_end_leads_to_another_arming() {
        let mut machine = armed();
        for (outcome, verdict) in [
            (Outcome::Datagram, Verdict::Rearm),
            (Outcome::Ended, Verdict::Rearm),
            (Outcome::OutOfBuffers, Verdict::RearmWhenBuffersReturn),
        ] {
            assert_eq!(machine.complete(outcome, Armed::NoMore, EASY), verdict, "{outcome:?}");
        }
    }

    #[test]
    fn an_error_is_taken_before_the_socket_is_armed_again() {
        let mut machine = armed();
        assert_eq!(machine.complete(Outcome::Error, Armed::NoMore, EASY), Verdict::Keep);
        assert_eq!(machine.taken(EASY, 1), Verdict::Keep);
        assert_eq!(machine.taken(EASY, 0), Verdict::Rearm);
    }

    #[test]
    fn a_socket_over_its_share_pauses_and_resumes_when_half_is_taken() {
        let mut machine = armed();
        assert_eq!(machine.complete(Outcome::Datagram, Armed::Still, FULL), Verdict::Cancel);
        assert_eq!((machine.pauses(), machine.waits_for_receivers()), (1, false));
        assert_eq!(machine.complete(Outcome::Datagram, Armed::Still, FULL), Verdict::Keep);
        assert_eq!(machine.complete(Outcome::Ended, Armed::NoMore, FULL), Verdict::Keep);
        assert_eq!(machine.taken(Occupancy { queued: 40, free: 61 }, 0), Verdict::Keep);
        assert_eq!(machine.taken(Occupancy { queued: 33, free: 68 }, 0), Verdict::Rearm);
        assert_eq!((machine.pauses(), machine.waits_for_receivers()), (1, false));
    }

    /// Fails when only the occupancy decides where a datagram waits.
    #[test]
    fn what_still_comes_while_a_socket_pauses_stays_out_of_the_pool() {
        let mut machine = armed();
        assert_eq!(machine.place(EASY), Place::Pool);
        machine.complete(Outcome::Datagram, Armed::Still, FULL);
        assert_eq!(machine.place(EASY), Place::Outside);
    }

    #[test]
    fn a_pause_whose_inbox_was_emptied_meanwhile_ends_at_once() {
        let mut machine = armed();
        machine.complete(Outcome::Datagram, Armed::Still, FULL);
        let empty = Occupancy { queued: 0, free: 0 };
        assert_eq!(machine.taken(empty, 0), Verdict::Keep);
        assert_eq!(machine.complete(Outcome::Ended, Armed::NoMore, empty), Verdict::Rearm);
    }

    #[test]
    fn a_paused_socket_resumes_when_its_inbox_is_empty_although_the_pool_is_too() {
        let mut machine = armed();
        machine.complete(Outcome::Datagram, Armed::NoMore, Occupancy { queued: 1, free: 0 });
        assert_eq!(machine.taken(Occupancy { queued: 0, free: 0 }, 0), Verdict::Rearm);
    }

    #[test]
    fn a_sealed_socket_is_read_only_after_its_final_completion() {
        let mut machine = armed();
        assert_eq!(machine.stop(Then::Read), Verdict::Cancel);
        assert!(machine.is_cancelling() && !machine.is_reading());
        assert_eq!(machine.complete(Outcome::Datagram, Armed::Still, FULL), Verdict::Keep);
        assert_eq!(machine.complete(Outcome::Ended, Armed::NoMore, EASY), Verdict::Keep);
        assert!(machine.is_reading());
    }

    #[test]
    fn a_socket_sealed_while_it_pauses_is_read_and_not_paused() {
        let mut machine = armed();
        machine.complete(Outcome::Datagram, Armed::Still, FULL);
        assert_eq!(machine.stop(Then::Read), Verdict::Keep);
        machine.complete(Outcome::Ended, Armed::NoMore, FULL);
        assert!(machine.is_reading());
    }

    #[test]
    fn a_socket_sealed_while_starved_is_read_without_a_final_completion() {
        let mut machine = armed();
        machine.complete(Outcome::OutOfBuffers, Armed::NoMore, EASY);
        assert_eq!(machine.stop(Then::Read), Verdict::Cancel);
        machine.reaped();
        assert!(machine.is_reading());
    }

    /// Fails when an interruption loses the end of a drain or of a pause.
    #[test]
    fn an_interrupted_receive_goes_on_as_it_was() {
        let mut machine = armed();
        assert_eq!(machine.interrupt(), Verdict::Cancel);
        assert_eq!(machine.complete(Outcome::Ended, Armed::NoMore, EASY), Verdict::Keep);
        assert_eq!(machine.resume(), Verdict::Rearm);
        machine.complete(Outcome::Datagram, Armed::NoMore, FULL);
        let states =
            [State::Paused, State::Faulted, State::Reading, State::Drained, State::GivenUp];
        for state in states.into_iter().chain([State::Cancelling(Then::Read)]) {
            machine.state = state;
            assert_eq!((machine.interrupt(), machine.resume()), (Verdict::Keep, Verdict::Keep));
            assert_eq!(machine.state, state);
        }
    }

    /// Fails when a receive that ends late leaves the socket unarmed.
    #[test]
    fn an_interrupted_receive_that_comes_back_late_goes_on() {
        let mut machine = armed();
        machine.interrupt();
        assert_eq!(machine.resume(), Verdict::Keep);
        let empty = Occupancy { queued: 0, free: 100 };
        assert_eq!(machine.complete(Outcome::Ended, Armed::NoMore, empty), Verdict::Rearm);
        machine.interrupt();
        machine.resume();
        assert_eq!(machine.complete(Outcome::Ended, Armed::NoMore, EASY), Verdict::Keep);
        assert_eq!(machine.taken(empty, 0), Verdict::Rearm);
    }

    /// Fails when an error ends the reading.
    #[test]
    fn only_an_empty_queue_ends_the_reading() {
        let mut machine = armed();
        machine.stop(Then::Read);
        machine.reaped();
        for read in [Read::Datagrams(32), Read::Error, Read::Interrupted, Read::Datagrams(1)] {
            assert_eq!(machine.read(read), ReadOn::Yes, "{read:?}");
        }
        assert_eq!(machine.read(Read::Empty), ReadOn::No);
        assert!(machine.is_drained() && !machine.is_given_up());
    }

    /// Fails when reading such a socket does not end, or when its end counts as complete.
    #[test]
    fn a_socket_that_only_fails_is_given_up_until_it_is_drained_again() {
        let mut machine = armed();
        machine.stop(Then::Read);
        machine.reaped();
        for _drain in 0..2 {
            let reads = std::iter::repeat_with(|| machine.read(Read::Error));
            let failed = reads.take_while(|&on| on == ReadOn::Yes).count() as u32 + 1;
            assert_eq!(failed, MAX_DRAIN_ERRORS);
            assert!(machine.is_drained() && machine.is_given_up());
            machine.stop(Then::Leave);
            assert!(machine.is_given_up());
            assert_eq!(machine.stop(Then::Read), Verdict::Keep);
            assert!(machine.is_reading());
        }
        assert_eq!(machine.read(Read::Empty), ReadOn::No);
        assert!(machine.is_drained() && !machine.is_given_up());
    }

    /// However many sockets are not read, a buffer stays free for the others. Fails when the
    /// datagram that exceeds the share stays in the pool.
    #[test]
    fn unread_sockets_never_take_the_whole_pool() {
        let pools = if cfg!(miri) { 1..=8usize } else { 1..=64 };
        for pool in pools {
            let mut free = pool;
            for _unread_socket in 0..20 {
                let mut machine = armed();
                let (mut queued, mut pooled) = (0, 0);
                for _datagram in 0..100 {
                    assert!(free > 0, "pool {pool}");
                    free -= 1;
                    queued += 1;
                    match machine.place(Occupancy { queued, free }) {
                        Place::Pool => pooled += 1,
                        Place::Outside => free += 1,
                    }
                    machine.complete(Outcome::Datagram, Armed::Still, Occupancy { queued, free });
                }
                assert!(pooled <= pool / 2, "pool {pool}");
            }
        }
    }
}
