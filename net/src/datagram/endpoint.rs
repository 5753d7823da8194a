//! [`Endpoint`]: what all datagram sockets share. It feeds the receive machine and the inbox, and
//! carries out at the driver what the machine answers.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};

use ebbtide_runtime::driver::{
    Armed, Batch, Layout, MultishotKey, ReceivedMessage, Sink, Verdict, Wakes,
};
use ebbtide_runtime::limits::{DRAIN_READ_BATCH, MAX_DRAIN_ERRORS};
use ebbtide_runtime::{
    Again, AtTurnEnd, DrainKey, Drainable, Exit, Pass, Port, ReadProgress, Receivers, SocketStats,
};

use super::aside::Place;
use super::audience::Audience;
use super::held::Held;
use super::inbox::Claim;
use super::receive::{Outcome, Read, ReadOn, Then};
use super::sender::Sender;
use crate::socket::{OwnFilter, Socket};

/// Datagrams that the drain reads from a socket that could not be sealed, whose queue may be filled
/// again for ever. More than a receive buffer of the default size holds.
const UNSEALED_READ_LIMIT: u64 = 65_536;

/// Which of the kernel's kinds of datagram sockets it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Internet,
    Unix,
}

pub(crate) struct Endpoint {
    this: Weak<Self>,
    pub(super) port: Port,
    pub(super) socket: Socket,
    family: Family,
    layout: Layout,
    pub(super) held: RefCell<Held>,
    pub(super) stats: RefCell<SocketStats>,
    seal: Cell<Seal>,
    /// What the seal of a UDP socket took the place of. Set exactly when it is sealed.
    own_filter: OnceCell<OwnFilter>,
    /// Whether it has left its share to other sockets.
    pub(super) place: Place,
    life: Cell<Life>,
    pub(super) audience: Audience,
    exit: Cell<Exit>,
    /// The kernel's drop counter when the socket was taken in: it may have come with some.
    drops_before: u32,
    pub(super) sender: Sender,
    /// True exactly while the runtime is to call it at the end of the turn.
    is_called_at_turn_end: Cell<bool>,
    /// Both set once, right after the endpoint was made.
    multishot: OnceCell<MultishotKey>,
    drainable: OnceCell<DrainKey>,
}

#[derive(Clone, Copy, Debug)]
enum Seal {
    Open,
    /// `drops`: the kernel's drop counter at the seal. What it counts from then on was refused.
    Sealed {
        drops: u32,
    },
    /// The kernel refused the seal; `left` datagrams may still be read.
    Refused {
        left: u64,
    },
    /// It is to be left to others who hold it: there is no seal.
    Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    /// The user let go of it.
    Closed,
    /// Its runtime has ended, and its address is free; `drops` is the last count of the kernel.
    Ended {
        drops: u32,
    },
}

impl Endpoint {
    /// Takes in a bound or connected socket and starts to receive on it; if it is to be left, when
    /// somebody asks. `prepare` is called with
    /// the endpoint before that.
    pub(crate) fn open(
        socket: Socket,
        family: Family,
        layout: Layout,
        prepare: impl FnOnce(&Self) -> io::Result<()>,
    ) -> io::Result<Rc<Self>> {
        let port = Port::current()?;
        let drops_before = socket.drop_count().unwrap_or(0);
        let endpoint = Rc::new_cyclic(|this| Self {
            this: this.clone(),
            held: RefCell::new(Held::new(port.pool().clone(), layout, family)),
            port,
            socket,
            family,
            layout,
            stats: RefCell::default(),
            seal: Cell::new(Seal::Open),
            own_filter: OnceCell::new(),
            place: Place::default(),
            life: Cell::new(Life::Open),
            audience: Audience::default(),
            exit: Cell::new(Exit::Seal),
            drops_before,
            sender: Sender::default(),
            is_called_at_turn_end: Cell::new(false),
            multishot: OnceCell::new(),
            drainable: OnceCell::new(),
        });
        prepare(&endpoint)?;
        let drainable = endpoint.port.open_drainable(endpoint.clone())?;
        let multishot = endpoint.port.add_sink(endpoint.clone());
        endpoint.drainable.set(drainable).expect("set once");
        endpoint.multishot.set(multishot).expect("set once");
        match endpoint.exit.get() {
            Exit::Leave => endpoint.held.borrow_mut().machine.start_when_asked(),
            _ => endpoint.start(),
        }
        Ok(endpoint)
    }

    /// Begins to receive.
    pub(super) fn start(&self) {
        self.held.borrow_mut().machine.start();
        self.port.arm(self.multishot());
    }

    /// Begins to receive, if that has waited for somebody to ask.
    pub(super) fn start_if_unasked(&self) {
        let is_unasked = self.held.borrow().machine.is_unasked();
        if is_unasked {
            self.start();
        }
    }

    /// Ends the receive and waits for its final completion. What it still brings is in the inbox.
    pub(super) fn halt(&self) {
        let verdict = self.held.borrow_mut().machine.stop(Then::Leave);
        self.carry_out(verdict);
        self.port.reap(self.multishot());
    }

    /// Runs `change` while no receive is in flight, whatever the state of the socket, which stays
    /// as it is.
    ///
    /// # Errors
    ///
    /// `TimedOut` if the kernel does not give the receive back; then `change` does not run.
    pub(super) fn without_receive<T>(
        &self,
        change: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let verdict = self.held.borrow_mut().machine.interrupt();
        self.carry_out(verdict);
        self.port.reap(self.multishot());
        let changed = self.check_reaped().and_then(|()| change());
        let verdict = self.held.borrow_mut().machine.resume();
        self.carry_out(verdict);
        changed
    }

    /// What the kernel still receives would come after what is taken past the receive.
    fn check_reaped(&self) -> io::Result<()> {
        if self.is_reaped() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the kernel does not give the receive of the socket back, for want of memory",
        ))
    }

    /// The socket, as long as it is one.
    pub(crate) fn socket(&self) -> io::Result<&socket2::Socket> {
        self.check_open()?;
        self.socket.kernel()
    }

    fn multishot(&self) -> MultishotKey {
        *self.multishot.get().expect("set when the endpoint was opened")
    }

    /// Does at the driver what the machine has decided outside of a completion.
    pub(super) fn carry_out(&self, verdict: Verdict) {
        match verdict {
            Verdict::Keep => {}
            Verdict::Cancel => {
                self.port.cancel(self.multishot());
                if self.port.is_reaped(self.multishot()) {
                    self.held.borrow_mut().machine.reaped();
                }
            }
            Verdict::Rearm | Verdict::RearmWhenBuffersReturn => {
                self.stats.borrow_mut().rearmed += 1;
                self.port.arm(self.multishot());
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

    /// What a drain is to do to it.
    pub(crate) fn set_exit(&self, exit: Exit) -> io::Result<()> {
        self.check_open()?;
        if self.is_sealed() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket was drained: set what a drain does to it before",
            ));
        }
        self.exit.set(exit);
        match exit {
            _ if self.multishot.get().is_none() => {}
            // What is taken before anybody asks is taken from those who hold it, too.
            Exit::Leave if self.audience.nobody_has_come() => {
                self.halt();
                self.held.borrow_mut().machine.start_when_asked();
            }
            Exit::Leave => {}
            _ => self.start_if_unasked(),
        }
        Ok(())
    }

    /// Whether the user has it, in a runtime that runs.
    pub(super) fn is_open(&self) -> bool {
        self.life.get() == Life::Open
    }

    pub(super) fn is_drained(&self) -> bool {
        !self.is_open() || self.held.borrow().machine.is_drained()
    }

    /// Whether the kernel may queue trains.
    pub(super) fn gro(&self) -> bool {
        self.held.borrow().gro()
    }

    /// How many receive futures wait.
    #[cfg(ebbtide_model)]
    pub(crate) fn waiting(&self) -> usize {
        self.held.borrow().inbox.waiting()
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Whether its kernel is one in memory.
    pub(crate) fn is_model(&self) -> bool {
        !matches!(self.socket, Socket::Kernel(_))
    }

    pub(super) fn check_open(&self) -> io::Result<()> {
        self.port.check_process()?;
        match self.life.get() {
            Life::Open => Ok(()),
            Life::Closed | Life::Ended { .. } => Err(ended()),
        }
    }

    /// Steps 1 to 4 of the drain for this socket alone.
    pub(crate) fn drain(self: &Rc<Self>) -> io::Result<()> {
        self.port.check_process()?;
        match self.life.get() {
            Life::Open => self.port.seal_socket(Rc::clone(self) as Rc<dyn Drainable>),
            Life::Closed | Life::Ended { .. } => Ok(()),
        }
    }

    /// The user lets go of the socket: its address is free when this returns.
    pub(crate) fn close(self: &Rc<Self>) {
        // In a forked child the socket is the parent's.
        if self.life.get() != Life::Open || self.port.is_inherited() {
            return;
        }
        self.leave_share();
        self.leave();
        let mut wakes = Wakes::default();
        self.discard_rest(&mut wakes);
        self.discard();
        wakes.run();
        self.note_abandonment();
        self.port.close_drainable(*self.drainable.get().expect("set when opened"));
        // It fails only for a filter that was locked after the seal.
        let _ = self.take_the_seal_off();
        self.life.set(Life::Closed);
        if Rc::strong_count(self) > 1 {
            // A wait for room, whose future is gone, still holds the descriptor.
            let _ = self.socket.vacate(self.port.placeholder());
        }
        self.end_sends();
    }

    /// The user takes the socket back: ends the receive, and gives the datagrams that were taken.
    pub(crate) fn detach(&self) -> io::Result<Vec<ReceivedMessage>> {
        self.check_open()?;
        self.leave();
        self.check_reaped()?;
        if self.gro() {
            // Whoever reads the socket by other means does not expect trains.
            self.turn_gro_off()?;
        }
        self.take_the_seal_off()?;
        self.take_share()?;
        let mut taken = Vec::new();
        for mut received in self.held.borrow_mut().take_all() {
            while let Some(first) = received.split_off_first() {
                taken.push(first);
            }
            taken.push(received);
        }
        self.stats.borrow_mut().handed_over += taken.len() as u64;
        self.port.close_drainable(*self.drainable.get().expect("set when opened"));
        self.life.set(Life::Closed);
        self.end_sends();
        Ok(taken)
    }

    /// Ends the receive for good.
    fn leave(&self) {
        self.halt();
        self.port.remove_sink(self.multishot());
    }

    /// Notes whether the kernel throws datagrams away with the socket. How many cannot be said
    /// without taking them, which other descriptors of the socket may still want to do.
    fn note_abandonment(&self) {
        if self.exit.get() == Exit::Leave {
            // Others hold it, who may still receive what is queued.
            return;
        }
        for _ in 0..MAX_DRAIN_ERRORS {
            match self.socket.peek() {
                Ok(_) => return self.stats.borrow_mut().abandoned += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A pending error of the socket is told first; the datagrams come after it.
                Err(_) => {}
            }
        }
        // It cannot be told, and that nothing was queued has to be proved.
        self.stats.borrow_mut().abandoned += 1;
    }

    /// Undoes the seal of a UDP socket, after the last read: others may hold the socket, too, and
    /// would find it deaf for ever. That of a Unix socket cannot be undone.
    fn take_the_seal_off(&self) -> io::Result<()> {
        self.own_filter.get().map_or(Ok(()), |own| self.socket.unseal(own))
    }

    /// Throws away what is in the inbox, and counts it. Returns how many datagrams there were.
    fn discard(&self) -> usize {
        let (count, thrown_away) = {
            let mut held = self.held.borrow_mut();
            (held.datagrams(), held.take_all())
        };
        self.stats.borrow_mut().discarded += count as u64;
        drop(thrown_away);
        count
    }

    pub(crate) fn socket_stats(&self) -> SocketStats {
        let mut stats = *self.stats.borrow();
        self.held.borrow().count(&mut stats);
        let drops = match self.life.get() {
            Life::Ended { drops } => drops,
            Life::Open | Life::Closed => self.socket.drop_count().unwrap_or(self.drops_before),
        };
        match self.seal.get() {
            Seal::Sealed { drops: at_seal } => {
                stats.dropped_by_kernel = u64::from(at_seal.wrapping_sub(self.drops_before));
                stats.refused = u64::from(drops.wrapping_sub(at_seal));
            }
            Seal::Open | Seal::Refused { .. } | Seal::Left => {
                stats.dropped_by_kernel = u64::from(drops.wrapping_sub(self.drops_before));
            }
        }
        stats
    }

    /// Hands an error to a receiver, as if a completion had brought it.
    pub(super) fn surface(&self, error: io::Error) {
        let mut wakes = Wakes::default();
        self.fail(&mut self.held.borrow_mut(), error, &mut wakes);
        wakes.run();
    }

    /// An error arrives, for the receiver.
    fn fail(&self, held: &mut Held, error: io::Error, wakes: &mut Wakes) {
        held.failed(error, wakes);
        self.note_arrival(held);
    }

    /// Something has arrived, for which a receiver was woken. While others wait, the end of the turn
    /// shows whether that one has come.
    #[inline]
    fn note_arrival(&self, held: &Held) {
        if held.inbox.has_waiters() {
            self.call_at_turn_end();
        }
    }

    /// Has [`turn_ends`](AtTurnEnd::turn_ends) called.
    pub(super) fn call_at_turn_end(&self) {
        if self.is_called_at_turn_end.replace(true) {
            return self.port.no_sleep_before_turn_end();
        }
        let this: Weak<Self> = self.this.clone();
        self.port.at_turn_end(this);
    }

    /// Takes up to `limit` messages from the kernel's queue, past the driver, if its receive is not
    /// in flight.
    pub(super) fn read_now(&self, held: &mut Held, limit: usize, wakes: &mut Wakes) -> Read {
        match held.read(&self.socket, &mut self.port.scratch(), limit, wakes) {
            Ok(count) => {
                self.note_arrival(held);
                Read::Datagrams(count)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Read::Empty,
                io::ErrorKind::Interrupted => Read::Interrupted,
                _ => {
                    self.fail(held, error, wakes);
                    Read::Error
                }
            },
        }
    }
}

/// The error of what is asked of a socket after its end.
pub(super) fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the ebbtide runtime of this socket has ended")
}

impl Sink for Endpoint {
    fn socket(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn layout(&self) -> Layout {
        self.layout
    }

    fn receive(&self, batch: Batch<'_>, armed: Armed, wakes: &mut Wakes) -> Verdict {
        let mut held = self.held.borrow_mut();
        let verdict = held.arrived(batch, armed, wakes);
        self.note_arrival(&held);
        self.note(verdict)
    }

    fn end(&self, error: Option<io::Error>, armed: Armed, wakes: &mut Wakes) -> Verdict {
        let mut held = self.held.borrow_mut();
        let outcome = match error {
            None => Outcome::Ended,
            Some(error) => match error.raw_os_error() {
                Some(libc::ENOBUFS) => Outcome::OutOfBuffers,
                Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => Outcome::Ended,
                _ => {
                    self.fail(&mut held, error, wakes);
                    Outcome::Error
                }
            },
        };
        let load = held.load();
        let verdict = held.machine.complete(outcome, armed, load);
        self.note(verdict)
    }
}

impl AtTurnEnd for Endpoint {
    fn turn_ends(&self, wakes: &mut Wakes) -> Again {
        let receives = match self.held.borrow_mut().inbox.turn_ends(wakes) {
            Claim::Settled => Again::No,
            Claim::Open => Again::WithoutSleep,
        };
        let sends = self.this.upgrade().map_or(Again::No, |this| this.send_together(wakes));
        let again = receives.max(sends);
        self.is_called_at_turn_end.set(again != Again::No);
        again
    }
}

impl Drainable for Endpoint {
    fn exit(&self) -> Exit {
        self.exit.get()
    }

    fn leave_share(&self) {
        Self::leave_share(self);
    }

    fn seal(&self) -> io::Result<()> {
        if let Seal::Sealed { .. } | Seal::Left = self.seal.get() {
            return Ok(());
        }
        self.audience.sealed();
        if self.exit.get() == Exit::Leave {
            self.seal.set(Seal::Left);
            return Ok(());
        }
        self.reopen_without_seal();
        let drops = self.socket.drop_count().unwrap_or(0);
        let sealed = match self.family {
            Family::Internet => self.socket.seal_by_filter().map(|own| {
                self.own_filter.set(own).expect("sealed once");
            }),
            Family::Unix => self.socket.seal_by_shutdown(),
        };
        self.seal.set(match sealed {
            Ok(()) => Seal::Sealed { drops },
            Err(_) => Seal::Refused { left: UNSEALED_READ_LIMIT },
        });
        sealed
    }

    fn cancel(&self) {
        self.reopen_without_seal();
        let then = if self.exit.get() == Exit::Leave { Then::End } else { Then::Read };
        let verdict = self.held.borrow_mut().machine.stop(then);
        self.carry_out(verdict);
    }

    fn is_reaped(&self) -> bool {
        !self.held.borrow().machine.is_cancelling()
    }

    fn read(&self, limit: usize, pass: Pass, wakes: &mut Wakes) -> ReadProgress {
        let mut held = self.held.borrow_mut();
        let held = &mut *held;
        let mut left = limit;
        while left > 0 && held.machine.is_reading() {
            let read = self.read_now(held, left, wakes);
            if pass == Pass::Early && read == Read::Empty {
                return ReadProgress::Ended;
            }
            let count = match read {
                Read::Datagrams(count) => count,
                Read::Error | Read::Interrupted | Read::Empty => 1,
            };
            let read_on = held.machine.read(read);
            if read_on == ReadOn::Yes && self.is_used_up(count) {
                held.machine.give_up();
            }
            left = left.saturating_sub(count);
        }
        if held.machine.is_drained() {
            wakes.wake(held.inbox.take_wakers());
        }
        if held.machine.is_reading() { ReadProgress::More } else { ReadProgress::Ended }
    }

    fn is_given_up(&self) -> bool {
        self.held.borrow().machine.is_given_up()
    }

    fn is_sealed(&self) -> bool {
        Self::is_sealed(self)
    }

    fn undelivered(&self) -> usize {
        if self.is_sealed() { self.held.borrow().datagrams() } else { 0 }
    }

    fn buffers_held(&self) -> usize {
        self.held.borrow().buffers()
    }

    fn delivered(&self) -> u64 {
        self.held.borrow().delivered()
    }

    fn receivers(&self, wakes: &mut Wakes) -> Receivers {
        self.read_ahead(wakes);
        self.audience.receivers()
    }

    fn discard_rest(&self, wakes: &mut Wakes) -> usize {
        if !self.is_sealed() {
            return 0;
        }
        // A batch at a time: what nobody wants is not to fill the memory.
        let mut count = self.discard();
        while self.read(DRAIN_READ_BATCH, Pass::Last, wakes) == ReadProgress::More {
            count += self.discard();
        }
        count + self.discard()
    }

    fn end(&self) {
        // It has if it was drained; not if it was opened since.
        self.leave_share();
        let drops = self.socket.drop_count().unwrap_or(0);
        self.note_abandonment();
        self.life.set(Life::Ended { drops });
        self.discard();
        // It fails only for a filter that was locked after the seal.
        let _ = self.take_the_seal_off();
        // It fails only for a descriptor that somebody else has closed already.
        let _ = self.socket.vacate(self.port.placeholder());
        self.end_sends();
    }

    fn stats(&self) -> SocketStats {
        self.socket_stats()
    }
}

impl Endpoint {
    /// Whether the drain has come to this socket, also where the kernel refused the seal.
    pub(super) fn is_sealed(&self) -> bool {
        !matches!(self.seal.get(), Seal::Open)
    }

    /// Whether what is queued, and will be, is left to others who hold the socket.
    pub(super) fn is_left(&self) -> bool {
        matches!(self.seal.get(), Seal::Left)
    }

    /// Whether the kernel queues nothing more on it.
    pub(super) fn has_seal(&self) -> bool {
        matches!(self.seal.get(), Seal::Sealed { .. })
    }

    /// A socket without a seal whose queue was read to its end has been queued to since then, for
    /// all that is known. The seal is what lets a drain read once.
    fn reopen_without_seal(&self) {
        if let Seal::Refused { .. } = self.seal.get() {
            self.held.borrow_mut().machine.reopen();
        }
    }

    /// Whether a socket without a seal has been read for long enough.
    fn is_used_up(&self, read: usize) -> bool {
        let Seal::Refused { left } = self.seal.get() else { return false };
        let left = left.saturating_sub(read as u64);
        self.seal.set(Seal::Refused { left });
        left == 0
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("family", &self.family)
            .field("life", &self.life.get())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use ebbtide_runtime::task::yield_now;
    use ebbtide_runtime::{Drain, Runtime};

    use super::*;
    use crate::UnixDatagram;

    /// Fails when what a socket says before its seal, that its queue is empty, is taken for the end.
    #[test]
    fn an_empty_queue_before_the_seal_is_not_the_end() {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            let endpoint = receiver.endpoint();
            let mut wakes = Wakes::default();
            endpoint.cancel();
            endpoint.port.reap(endpoint.multishot());
            assert_eq!(endpoint.read(1, Pass::Early, &mut wakes), ReadProgress::Ended);
            sender.try_send(b"comes before the seal").unwrap();
            while endpoint.read(1, Pass::Last, &mut wakes) == ReadProgress::More {}
            assert_eq!(receiver.try_recv().unwrap().unwrap()[..], *b"comes before the seal");
            assert!(receiver.try_recv().unwrap().is_none());
        });
        runtime.shutdown(Drain::default());
    }

    /// A socket that is closed while the kernel still has its receive may be handed some more. Fails
    /// when the pool loses a buffer for each.
    #[test]
    fn what_waits_in_an_inbox_that_is_dropped_goes_back_to_the_pool() {
        let runtime = Runtime::new().unwrap();
        let before = runtime.metrics().free_buffers;
        runtime.block_on(async {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            for _ in 0..10 {
                sender.try_send(b"waits").unwrap();
            }
            for _ in 0..1_000 {
                if receiver.stats().received == 10 {
                    break;
                }
                yield_now().await;
            }
            assert_eq!(runtime.metrics().free_buffers, before - 10);
            let endpoint = receiver.endpoint();
            endpoint.halt();
            let pool = endpoint.port.pool().clone();
            let empty = Held::new(pool, endpoint.layout, Family::Unix);
            drop(endpoint.held.replace(empty));
            assert_eq!(runtime.metrics().free_buffers, before);
        });
        runtime.shutdown(Drain::default());
    }
}
