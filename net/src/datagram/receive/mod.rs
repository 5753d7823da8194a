//! [`ReceiveHalf`]: how a socket receives, from its first arming to the end of its queue.
//!
//! ```text
//! completion -> ReceiveHalf -> ReceiveMachine: what to do with the receive
//!                           -> Inbox -> wakes one receiver
//! recv       <- Datagram    <- Inbox
//! ```
//!
//! The machine, the inbox, the waiters and the audience are pure. Here is what they need of the
//! driver and of the kernel.

mod arrivals;
mod audience;
mod contents;
mod future;
mod gro;
mod hand_out;
mod inbox;
mod machine;
mod message;
mod seal;
mod waiters;

use std::cell::{OnceCell, RefCell};
use std::io;

use ebbtide_runtime::driver::{Armed, Batch, Cancelled, Layout, ReceiveKey, Verdict};
use ebbtide_runtime::limits::{DRAIN_READ_BATCH, MAX_DRAIN_ERRORS};
use ebbtide_runtime::{Again, Exit, Pass, ReadProgress, Receivers, SocketStats, Wakes};

use self::arrivals::Arrivals;
use self::audience::Audience;
pub use self::future::{Incoming, Recv, RecvBatch, RecvFrom, RecvTrain};
pub(crate) use self::gro::GroWish;
use self::inbox::Claim;
pub(crate) use self::inbox::Take;
#[cfg(test)]
pub(super) use self::machine::Then;
#[cfg(not(test))]
use self::machine::Then;
use self::machine::{Outcome, Read, ReadOn};
pub(crate) use self::message::ReceivedMessage;
#[cfg(fuzzing)]
pub(crate) use self::message::properties as message_properties;
use self::seal::{Drops, Seal, Sealed};
use super::registered::{Life, RegisteredSocket};

/// The receiving half of a socket.
pub(crate) struct ReceiveHalf {
    pub(super) arrivals: RefCell<Arrivals>,
    /// What is counted outside of `arrivals`.
    stats: RefCell<SocketStats>,
    seal: Seal,
    audience: Audience,
    layout: Layout,
    /// Set once, right after the endpoint was made.
    key: OnceCell<ReceiveKey>,
}

impl ReceiveHalf {
    pub(super) fn new(socket: &RegisteredSocket, layout: Layout) -> Self {
        let pool = socket.registration.pool().clone();
        Self {
            arrivals: RefCell::new(Arrivals::new(pool, layout, socket.family())),
            stats: RefCell::default(),
            seal: Seal::new(&socket.socket),
            audience: Audience::default(),
            layout,
            key: OnceCell::new(),
        }
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// The driver knows the receive as `key`.
    pub(super) fn register(&self, key: ReceiveKey) {
        self.key.set(key).expect("registered once");
    }

    /// Whether the driver knows the receive.
    pub(super) fn is_registered(&self) -> bool {
        self.key.get().is_some()
    }

    pub(super) fn key(&self) -> ReceiveKey {
        *self.key.get().expect("set when the endpoint was opened")
    }

    /// Begins to receive.
    pub(super) fn start(&self, socket: &RegisteredSocket) {
        self.arrivals.borrow_mut().machine.start();
        socket.registration.arm(self.key());
    }

    /// Receives only when somebody asks.
    pub(super) fn start_when_asked(&self) {
        self.arrivals.borrow_mut().machine.start_when_asked();
    }

    /// Begins to receive, if that has waited for somebody to ask.
    pub(super) fn start_if_unasked(&self, socket: &RegisteredSocket) {
        let is_unasked = self.arrivals.borrow().machine.is_unasked();
        if is_unasked {
            self.start(socket);
        }
    }

    /// Ends the receive and waits for its final completion. What it still brings is in the inbox.
    pub(super) fn halt(&self, socket: &RegisteredSocket) {
        let verdict = self.arrivals.borrow_mut().machine.stop(Then::Leave);
        self.carry_out(socket, verdict);
        socket.registration.reap(self.key());
    }

    /// Ends the receive for good.
    pub(super) fn leave(&self, socket: &RegisteredSocket) {
        self.halt(socket);
        socket.registration.remove_sink(self.key());
    }

    /// Runs `change` while no receive is in flight, whatever the state of the socket, which stays
    /// as it is.
    ///
    /// # Errors
    ///
    /// `TimedOut` if the kernel does not return the receive; then `change` does not run.
    pub(super) fn without_receive<T>(
        &self,
        socket: &RegisteredSocket,
        change: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let verdict = self.arrivals.borrow_mut().machine.interrupt();
        self.carry_out(socket, verdict);
        socket.registration.reap(self.key());
        let changed = self.check_reaped().and_then(|()| change());
        let verdict = self.arrivals.borrow_mut().machine.resume();
        self.carry_out(socket, verdict);
        changed
    }

    /// What the kernel still receives would come after what is taken past the receive.
    pub(super) fn check_reaped(&self) -> io::Result<()> {
        if self.is_reaped() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the kernel does not return the receive of the socket, because it has no memory for the cancel",
        ))
    }

    /// Does at the driver what the machine has decided outside of a completion.
    pub(super) fn carry_out(&self, socket: &RegisteredSocket, verdict: Verdict) {
        match verdict {
            Verdict::Keep => {}
            Verdict::Cancel => {
                let cancelled = socket.registration.cancel(self.key());
                if cancelled == Cancelled::NothingInFlight {
                    self.arrivals.borrow_mut().machine.reaped();
                }
            }
            Verdict::Rearm | Verdict::RearmWhenBuffersReturn => {
                self.stats.borrow_mut().rearmed += 1;
                socket.registration.arm(self.key());
            }
        }
    }

    /// Counts what becomes of the receive.
    fn note(&self, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Keep | Verdict::Cancel => {}
            Verdict::Rearm => self.stats.borrow_mut().rearmed += 1,
            Verdict::RearmWhenBuffersReturn => self.stats.borrow_mut().starved += 1,
        }
        verdict
    }

    /// A completion has brought messages.
    #[inline]
    pub(super) fn arrived(
        &self,
        socket: &RegisteredSocket,
        batch: Batch<'_>,
        armed: Armed,
        wakes: &mut Wakes,
    ) -> Verdict {
        let mut arrivals = self.arrivals.borrow_mut();
        let verdict = arrivals.arrived(batch, armed, wakes);
        note_arrival(socket, &arrivals);
        self.note(verdict)
    }

    /// A completion has brought no message.
    pub(super) fn ended(
        &self,
        socket: &RegisteredSocket,
        error: Option<io::Error>,
        armed: Armed,
        wakes: &mut Wakes,
    ) -> Verdict {
        let mut arrivals = self.arrivals.borrow_mut();
        let outcome = match error {
            None => Outcome::Ended,
            Some(error) => match error.raw_os_error() {
                Some(libc::ENOBUFS) => Outcome::OutOfBuffers,
                Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => Outcome::Ended,
                _ => {
                    fail(socket, &mut arrivals, error, wakes);
                    Outcome::Error
                }
            },
        };
        let occupancy = arrivals.occupancy();
        let verdict = arrivals.machine.complete(outcome, armed, occupancy);
        self.note(verdict)
    }

    /// The tasks that were ready have run.
    pub(super) fn turn_ends(&self, wakes: &mut Wakes) -> Again {
        match self.arrivals.borrow_mut().inbox.turn_ends(wakes) {
            Claim::Settled => Again::No,
            Claim::Open => Again::WithoutSleep,
        }
    }

    /// Whether nothing will come any more.
    pub(super) fn is_drained(&self, socket: &RegisteredSocket) -> bool {
        !socket.is_open() || self.arrivals.borrow().machine.is_drained()
    }

    /// Whether nobody has asked for a datagram.
    pub(super) fn nobody_has_come(&self) -> bool {
        self.audience.nobody_has_come()
    }

    /// How many receive futures wait.
    #[cfg(ebbtide_model)]
    pub(crate) fn waiting(&self) -> usize {
        self.arrivals.borrow().inbox.waiting()
    }

    /// Hands an error to a receiver, as if a completion had brought it.
    fn surface(&self, socket: &RegisteredSocket, error: io::Error) {
        let mut wakes = Wakes::default();
        fail(socket, &mut self.arrivals.borrow_mut(), error, &mut wakes);
        wakes.run();
    }

    /// The user takes the socket back: all that waits, datagram by datagram.
    pub(super) fn hand_over(&self) -> Vec<ReceivedMessage> {
        let mut taken = Vec::new();
        for mut received in self.arrivals.borrow_mut().take_all() {
            while let Some(first) = received.split_off_first() {
                taken.push(first);
            }
            taken.push(received);
        }
        self.stats.borrow_mut().handed_over += taken.len() as u64;
        taken
    }

    /// For the tests of sockets in every state.
    #[cfg(test)]
    pub(super) fn machine(&self) -> std::cell::RefMut<'_, machine::ReceiveMachine> {
        std::cell::RefMut::map(self.arrivals.borrow_mut(), |arrivals| &mut arrivals.machine)
    }

    /// Drops what is in the inbox, as when the endpoint is dropped.
    #[cfg(test)]
    pub(super) fn forget_all(&self, socket: &RegisteredSocket) {
        let pool = socket.registration.pool().clone();
        let empty = Arrivals::new(pool, self.layout, socket.family());
        drop(self.arrivals.replace(empty));
    }

    /// Throws away what is in the inbox, and counts it. Returns how many datagrams there were.
    pub(super) fn discard(&self) -> usize {
        let (count, thrown_away) = {
            let mut arrivals = self.arrivals.borrow_mut();
            (arrivals.datagrams(), arrivals.take_all())
        };
        self.stats.borrow_mut().discarded += count as u64;
        drop(thrown_away);
        count
    }

    /// Notes whether the kernel throws datagrams away with the socket. How many cannot be said
    /// without taking them, which other descriptors of the socket may still want to do.
    pub(super) fn note_abandonment(&self, socket: &RegisteredSocket) {
        for _ in 0..MAX_DRAIN_ERRORS {
            match socket.socket.peek() {
                Ok(_) => return self.stats.borrow_mut().abandoned += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A pending error of the socket is reported first; the datagrams come after it.
                Err(_) => {}
            }
        }
        // It is not known, and that nothing was queued has to be proved.
        self.stats.borrow_mut().abandoned += 1;
    }

    pub(super) fn stats(&self, socket: &RegisteredSocket) -> SocketStats {
        let mut stats = *self.stats.borrow();
        self.arrivals.borrow().count(&mut stats);
        let drops = match socket.life() {
            Life::Ended { drops } => Some(drops),
            Life::Open | Life::Closed => socket.socket.drop_count().ok(),
        };
        let Drops { before_the_seal, refused } = self.seal.drops(drops);
        stats.dropped_by_kernel = before_the_seal;
        stats.refused = refused;
        stats
    }
}

/// The drain of a socket.
impl ReceiveHalf {
    /// Step 1. See [`Drainable::seal`](ebbtide_runtime::Drainable::seal).
    pub(super) fn seal(&self, socket: &RegisteredSocket, exit: Exit) -> io::Result<()> {
        if self.seal.is_final() {
            return Ok(());
        }
        self.audience.sealed();
        if exit == Exit::Leave {
            self.seal.leave();
            return Ok(());
        }
        self.reopen_without_seal();
        self.seal.seal(&socket.socket, socket.family())
    }

    /// Step 2.
    pub(super) fn cancel(&self, socket: &RegisteredSocket, exit: Exit) {
        self.reopen_without_seal();
        let then = if exit == Exit::Leave { Then::End } else { Then::Read };
        let verdict = self.arrivals.borrow_mut().machine.stop(then);
        self.carry_out(socket, verdict);
    }

    /// Step 3: whether the final completion has come.
    pub(super) fn is_reaped(&self) -> bool {
        !self.arrivals.borrow().machine.is_cancelling()
    }

    /// Step 4: takes up to `limit` messages.
    pub(super) fn read(
        &self,
        socket: &RegisteredSocket,
        limit: usize,
        pass: Pass,
        wakes: &mut Wakes,
    ) -> ReadProgress {
        let mut arrivals = self.arrivals.borrow_mut();
        let arrivals = &mut *arrivals;
        let mut left = limit;
        while left > 0 && arrivals.machine.is_reading() {
            let read = read_now(socket, arrivals, left, wakes);
            if pass == Pass::Early && read == Read::Empty {
                return ReadProgress::Ended;
            }
            let count = match read {
                Read::Datagrams(count) => count,
                Read::Error | Read::Interrupted | Read::Empty => 1,
            };
            let read_on = arrivals.machine.read(read);
            if read_on == ReadOn::Yes && self.seal.use_up(count) == Sealed::UsedUp {
                arrivals.machine.give_up();
            }
            left = left.saturating_sub(count);
        }
        if arrivals.machine.is_drained() {
            wakes.wake(arrivals.inbox.take_wakers());
        }
        if arrivals.machine.is_reading() { ReadProgress::More } else { ReadProgress::Ended }
    }

    /// Reads on while the socket is sealed, may have more in the kernel, and the inbox is empty.
    pub(super) fn read_ahead(&self, socket: &RegisteredSocket, wakes: &mut Wakes) {
        while self.asks_to_be_read()
            && self.read(socket, DRAIN_READ_BATCH, Pass::Last, wakes) == ReadProgress::More
        {
        }
    }

    /// Whether the socket is sealed, may have more in the kernel, and the inbox is empty.
    fn asks_to_be_read(&self) -> bool {
        let arrivals = self.arrivals.borrow();
        arrivals.machine.is_reading() && arrivals.inbox.is_empty()
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.arrivals.borrow().machine.is_given_up()
    }

    /// Whether the drain has come to this socket, also where the kernel refused the seal.
    pub(super) fn is_sealed(&self) -> bool {
        self.seal.has_come()
    }

    /// Whether what is queued, and will be, is left to others who hold the socket.
    pub(super) fn is_left(&self) -> bool {
        self.seal.is_left()
    }

    /// Whether the kernel queues nothing more on it.
    pub(super) fn has_seal(&self) -> bool {
        self.seal.holds()
    }

    /// A socket without a seal whose queue was read to its end has been queued to since then, for
    /// all that is known. The seal is what lets a drain read once.
    fn reopen_without_seal(&self) {
        if self.seal.is_refused() {
            self.arrivals.borrow_mut().machine.reopen();
        }
    }

    pub(super) fn undelivered(&self) -> usize {
        if self.is_sealed() { self.arrivals.borrow().datagrams() } else { 0 }
    }

    /// Who receives, after what the kernel has for them was read.
    pub(super) fn receivers(&self, socket: &RegisteredSocket, wakes: &mut Wakes) -> Receivers {
        self.read_ahead(socket, wakes);
        self.audience.receivers()
    }

    /// Reads the queue of a sealed socket to its end, and throws it away. Returns how many datagrams
    /// there were.
    pub(super) fn discard_rest(&self, socket: &RegisteredSocket, wakes: &mut Wakes) -> usize {
        if !self.is_sealed() {
            return 0;
        }
        // A batch at a time: what nobody wants is not to fill the memory.
        let mut count = self.discard();
        while self.read(socket, DRAIN_READ_BATCH, Pass::Last, wakes) == ReadProgress::More {
            count += self.discard();
        }
        count + self.discard()
    }

    /// Undoes the seal of a UDP socket, after the last read: others may hold the socket, too, and
    /// would find it deaf for ever. That of a Unix socket cannot be undone.
    pub(super) fn take_the_seal_off(&self, socket: &RegisteredSocket) -> io::Result<()> {
        self.seal.take_off(&socket.socket)
    }
}

/// Takes up to `limit` messages from the kernel's queue, past the driver, if the receive is not in
/// flight.
fn read_now(
    socket: &RegisteredSocket,
    arrivals: &mut Arrivals,
    limit: usize,
    wakes: &mut Wakes,
) -> Read {
    match arrivals.read(&socket.socket, &mut socket.registration.scratch(), limit, wakes) {
        Ok(count) => {
            note_arrival(socket, arrivals);
            Read::Datagrams(count)
        }
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => Read::Empty,
            io::ErrorKind::Interrupted => Read::Interrupted,
            _ => {
                fail(socket, arrivals, error, wakes);
                Read::Error
            }
        },
    }
}

/// An error arrives, for the receiver.
fn fail(socket: &RegisteredSocket, arrivals: &mut Arrivals, error: io::Error, wakes: &mut Wakes) {
    arrivals.failed(error, wakes);
    note_arrival(socket, arrivals);
}

/// Something has arrived, for which a receiver was woken. While others wait, the end of the turn
/// shows whether that one has come.
#[inline]
fn note_arrival(socket: &RegisteredSocket, arrivals: &Arrivals) {
    if arrivals.inbox.has_waiters() {
        socket.call_at_turn_end();
    }
}
