//! [`ReceiveHalf`]: how a socket receives, from its first arming to the end of its queue.
//!
//! ```text
//! completion -> ReceiveHalf -> ReceiveMachine: what to do with the receive
//!                           -> Inbox -> wakes one receiver
//! recv       <- Datagram    <- Inbox
//! ```
//!
//! The machine, the inbox, the waiters and the audience are pure. This file connects them to the
//! driver and the kernel.

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
use self::machine::{Outcome, Read, ReadOn, Then};
pub(crate) use self::message::ReceivedMessage;
#[cfg(fuzzing)]
pub(crate) use self::message::properties as message_properties;
use self::seal::{Drops, Seal};
use super::registered::{Life, RegisteredSocket};

/// The receiving half of a socket.
pub(crate) struct ReceiveHalf {
    pub(super) arrivals: RefCell<Arrivals>,
    /// Counts that are not in `arrivals`.
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

    /// The driver knows the receive by `key`.
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

    /// Starts to receive.
    pub(super) fn start(&self, socket: &RegisteredSocket) {
        self.arrivals.borrow_mut().machine.start();
        socket.registration.arm(self.key());
    }

    /// From now on, receives only when somebody asks for a datagram.
    pub(super) fn start_when_asked(&self) {
        self.arrivals.borrow_mut().machine.start_when_asked();
    }

    /// Starts to receive if nobody has asked for a datagram so far.
    pub(super) fn start_if_unasked(&self, socket: &RegisteredSocket) {
        let is_unasked = self.arrivals.borrow().machine.is_unasked();
        if is_unasked {
            self.start(socket);
        }
    }

    /// Ends the receive and waits for its final completion. What it still brings goes into the
    /// inbox.
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

    /// Runs `change` while no receive is in flight. Works in every state of the socket, and leaves
    /// it in that state.
    ///
    /// # Errors
    ///
    /// `TimedOut` if the kernel does not end the receive. Then `change` does not run.
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

    /// Fails while the receive is in flight. A datagram that it brings would come after datagrams
    /// that were read directly.
    pub(super) fn check_reaped(&self) -> io::Result<()> {
        if self.is_reaped() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the kernel has no memory to cancel the receive of the socket",
        ))
    }

    /// Carries out what the machine has decided outside of a completion.
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

    /// Counts the verdict.
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

    /// Whether no datagram will come any more.
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

    /// Takes all datagrams out of the inbox, because the user takes the socket back.
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

    /// For `states.rs` and `unix_states.rs`.
    #[cfg(test)]
    pub(super) fn machine(&self) -> std::cell::RefMut<'_, machine::ReceiveMachine> {
        std::cell::RefMut::map(self.arrivals.borrow_mut(), |arrivals| &mut arrivals.machine)
    }

    /// Drops what is in the inbox, as dropping the endpoint does.
    #[cfg(test)]
    pub(super) fn forget_all(&self, socket: &RegisteredSocket) {
        let pool = socket.registration.pool().clone();
        let empty = Arrivals::new(pool, self.layout, socket.family());
        drop(self.arrivals.replace(empty));
    }

    /// Throws away what is in the inbox and counts it. Returns the number of datagrams.
    pub(super) fn discard(&self) -> usize {
        let (count, thrown_away) = {
            let mut arrivals = self.arrivals.borrow_mut();
            (arrivals.datagrams(), arrivals.take_all())
        };
        self.stats.borrow_mut().discarded += count as u64;
        drop(thrown_away);
        count
    }

    /// Notes whether the kernel throws datagrams away with the socket. Counting them would take
    /// them out of the queue, and other descriptors of the socket may still want them.
    pub(super) fn note_abandonment(&self, socket: &RegisteredSocket) {
        for _ in 0..MAX_DRAIN_ERRORS {
            match socket.socket.peek() {
                Ok(_) => return self.stats.borrow_mut().abandoned += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A pending error of the socket is returned before the queued datagrams
                // (docs/kernel.md, K-UDP-4).
                Err(_) => {}
            }
        }
        // Not known: only `EAGAIN` proves that the queue is empty (docs/kernel.md, K-UDP-3).
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
    /// Step 1: see [`Drainable::seal`](ebbtide_runtime::Drainable::seal).
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

    /// Step 2: cancels the receive.
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

    /// Step 4: reads up to `limit` messages.
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
            if read_on == ReadOn::Yes && self.seal.use_up(count) == ReadOn::No {
                arrivals.machine.give_up();
            }
            left = left.saturating_sub(count);
        }
        if arrivals.machine.is_drained() {
            wakes.wake(arrivals.inbox.take_wakers());
        }
        if arrivals.machine.is_reading() { ReadProgress::More } else { ReadProgress::Ended }
    }

    /// Reads while the socket is sealed, the kernel may have more, and the inbox is empty.
    pub(super) fn read_ahead(&self, socket: &RegisteredSocket, wakes: &mut Wakes) {
        while self.needs_reading()
            && self.read(socket, DRAIN_READ_BATCH, Pass::Last, wakes) == ReadProgress::More
        {
        }
    }

    /// Whether the socket is sealed, the kernel may have more, and the inbox is empty.
    fn needs_reading(&self) -> bool {
        let arrivals = self.arrivals.borrow();
        arrivals.machine.is_reading() && arrivals.inbox.is_empty()
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.arrivals.borrow().machine.is_given_up()
    }

    /// Whether the drain has reached this socket, even if the kernel refused the seal.
    pub(super) fn is_sealed(&self) -> bool {
        self.seal.has_come()
    }

    /// Whether what is queued, now and later, is left to others who hold the socket.
    pub(super) fn is_left(&self) -> bool {
        self.seal.is_left()
    }

    /// Whether the kernel queues nothing more on the socket.
    pub(super) fn has_seal(&self) -> bool {
        self.seal.holds()
    }

    /// Reopens a socket without a seal that was read to its end, because the kernel may have queued
    /// more since. Only the seal makes one reading enough.
    fn reopen_without_seal(&self) {
        if self.seal.is_refused() {
            self.arrivals.borrow_mut().machine.reopen();
        }
    }

    pub(super) fn undelivered(&self) -> usize {
        if self.is_sealed() { self.arrivals.borrow().datagrams() } else { 0 }
    }

    /// Reads what the kernel has for the receivers, and returns who they are.
    pub(super) fn receivers(&self, socket: &RegisteredSocket, wakes: &mut Wakes) -> Receivers {
        self.read_ahead(socket, wakes);
        self.audience.receivers()
    }

    /// Reads the queue of a sealed socket to its end and throws it away. Returns the number of
    /// datagrams.
    pub(super) fn discard_rest(&self, socket: &RegisteredSocket, wakes: &mut Wakes) -> usize {
        if !self.is_sealed() {
            return 0;
        }
        // One batch at a time, so that datagrams that nobody wants do not fill the memory.
        let mut count = self.discard();
        while self.read(socket, DRAIN_READ_BATCH, Pass::Last, wakes) == ReadProgress::More {
            count += self.discard();
        }
        count + self.discard()
    }

    /// Removes the seal of a UDP socket, after the last read. Otherwise others who hold the socket
    /// would never receive again. The seal of a Unix socket cannot be removed (docs/kernel.md,
    /// K-UNIX-2).
    pub(super) fn remove_seal(&self, socket: &RegisteredSocket) -> io::Result<()> {
        self.seal.remove(&socket.socket)
    }
}

/// Reads up to `limit` messages directly from the kernel, without the driver. The receive must not
/// be in flight.
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

/// Puts an error into the inbox.
fn fail(socket: &RegisteredSocket, arrivals: &mut Arrivals, error: io::Error, wakes: &mut Wakes) {
    arrivals.failed(error, wakes);
    note_arrival(socket, arrivals);
}

/// A receiver was woken for what has arrived. If others wait too, makes the runtime check at the
/// end of the turn whether that receiver has come.
#[inline]
fn note_arrival(socket: &RegisteredSocket, arrivals: &Arrivals) {
    if arrivals.inbox.has_waiters() {
        socket.call_at_turn_end();
    }
}
