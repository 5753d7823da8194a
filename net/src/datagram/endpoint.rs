//! [`Endpoint`]: what all datagram sockets share. It feeds the receive machine and the inbox, and
//! carries out at the driver what the machine answers.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use ebbtide_runtime::driver::{
    Layout, MultishotKey, ReceivedMessage, Reception, Sink, Verdict, Wakes,
};
use ebbtide_runtime::task::{poll_receive_budget, poll_send_budget};
use ebbtide_runtime::{
    DrainKey, Drainable, InFlight, Pass, Port, ReadProgress, Receivers, SocketStats,
};
use socket2::SockAddr;

use super::inbox::{Arrival, Inbox};
use super::receive::{Load, Outcome, Place, Read, ReadOn, ReceiveMachine, Then};
use super::waiters::WaiterKey;
use crate::address::{INTERNET_NAME_LEN, UNIX_NAME_LEN};
use crate::operation;
use crate::socket::Socket;

/// Datagrams that the drain reads from a socket that could not be sealed, whose queue may be filled
/// again for ever. More than a receive buffer of the default size holds.
const UNSEALED_READ_LIMIT: u64 = 65_536;

/// Which of the kernel's kinds of datagram sockets it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Internet,
    Unix,
}

impl Family {
    fn layout(self) -> Layout {
        match self {
            Self::Internet => Layout::new(INTERNET_NAME_LEN, 0),
            Self::Unix => Layout::new(UNIX_NAME_LEN, 0),
        }
    }
}

pub(crate) struct Endpoint {
    port: Port,
    socket: Socket,
    family: Family,
    receive: RefCell<Receive>,
    stats: RefCell<SocketStats>,
    seal: Cell<Seal>,
    life: Cell<Life>,
    /// True once somebody has asked for a datagram.
    is_received_from: Cell<bool>,
    /// True exactly while a receiver has been handed a datagram after the seal, but not yet the
    /// end.
    owes_end: Cell<bool>,
    /// Both set once, right after the endpoint was made.
    multishot: OnceCell<MultishotKey>,
    drainable: OnceCell<DrainKey>,
}

struct Receive {
    machine: ReceiveMachine,
    inbox: Inbox<ReceivedMessage>,
    /// Where direct reads go; empty until the drain.
    scratch: Vec<u8>,
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
    /// Takes in a bound or connected socket and starts to receive on it.
    pub(crate) fn open(socket: Socket, family: Family) -> io::Result<Rc<Self>> {
        let port = Port::current()?;
        let endpoint = Rc::new(Self {
            port,
            socket,
            family,
            receive: RefCell::new(Receive {
                machine: ReceiveMachine::new(),
                inbox: Inbox::default(),
                scratch: Vec::new(),
            }),
            stats: RefCell::default(),
            seal: Cell::new(Seal::Open),
            life: Cell::new(Life::Open),
            is_received_from: Cell::new(false),
            owes_end: Cell::new(false),
            multishot: OnceCell::new(),
            drainable: OnceCell::new(),
        });
        let drainable = endpoint.port.open_drainable(endpoint.clone())?;
        let multishot = endpoint.port.add_sink(endpoint.clone());
        endpoint.drainable.set(drainable).expect("set once");
        endpoint.multishot.set(multishot).expect("set once");
        endpoint.receive.borrow_mut().machine.start();
        endpoint.port.arm(multishot);
        Ok(endpoint)
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
    fn carry_out(&self, verdict: Verdict) {
        match verdict {
            Verdict::Keep => {}
            Verdict::Cancel => {
                self.port.cancel(self.multishot());
                if self.port.is_reaped(self.multishot()) {
                    self.receive.borrow_mut().machine.reaped();
                }
            }
            Verdict::Rearm | Verdict::RearmWhenBuffersReturn => {
                self.stats.borrow_mut().rearmed += 1;
                self.port.arm(self.multishot());
            }
        }
    }

    /// Takes the next arrival. `Ready(Ok(None))`: sealed and drained.
    pub(crate) fn poll_receive(
        &self,
        waiter: &mut Option<WaiterKey>,
        cx: &Context<'_>,
    ) -> Poll<io::Result<Option<ReceivedMessage>>> {
        self.is_received_from.set(true);
        if self.receive.borrow().inbox.is_empty() && !self.is_drained() {
            // Cloned before and dropped after the borrow: wakers are foreign code.
            let waker = cx.waker().clone();
            let (key, _replaced) = self.receive.borrow_mut().inbox.wait(*waiter, waker);
            *waiter = Some(key);
            return Poll::Pending;
        }
        // Only what is handed over is charged for: a `select` over many sockets polls them all.
        ready!(poll_receive_budget(cx));
        let taken = self.take();
        if taken.is_none() {
            self.owes_end.set(false);
        }
        if let Some(key) = waiter.take() {
            let _own = self.receive.borrow_mut().inbox.served(key);
        }
        Poll::Ready(taken.transpose())
    }

    /// The future of a receive was dropped.
    pub(crate) fn abandon_receive(&self, waiter: WaiterKey) {
        let (next, _own) = self.receive.borrow_mut().inbox.dropped(waiter);
        if let Some(next) = next {
            next.wake();
        }
    }

    /// Takes what is queued now, in the inbox or in the kernel; `WouldBlock` if nothing is.
    pub(crate) fn try_receive(&self) -> io::Result<Option<ReceivedMessage>> {
        if self.receive.borrow().inbox.datagrams() == 0 && self.life.get() == Life::Open {
            self.port.collect_now();
        }
        self.is_received_from.set(true);
        match self.take() {
            Some(taken) => taken.map(Some),
            None if self.is_drained() => {
                self.owes_end.set(false);
                Ok(None)
            }
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Takes the next arrival if it is in the inbox and no error.
    pub(crate) fn take_datagram(&self) -> Option<ReceivedMessage> {
        let next = self.receive.borrow().inbox.is_next_datagram();
        if next { self.take()?.ok() } else { None }
    }

    /// Takes the next arrival from the inbox, and tells the machine.
    fn take(&self) -> Option<io::Result<ReceivedMessage>> {
        let mut receive = self.receive.borrow_mut();
        let arrival = receive.inbox.pop()?;
        let verdict = match self.life.get() {
            Life::Open => {
                let load = self.load(&receive);
                let errors = receive.inbox.errors();
                receive.machine.taken(load, errors)
            }
            Life::Closed | Life::Ended { .. } => Verdict::Keep,
        };
        drop(receive);
        self.carry_out(verdict);
        let mut stats = self.stats.borrow_mut();
        Some(match arrival {
            Arrival::Datagram(mut message) => {
                stats.delivered += 1;
                self.owes_end.set(self.is_sealed());
                message.claim();
                Ok(message)
            }
            Arrival::Error(error) => {
                stats.errors += 1;
                Err(error)
            }
        })
    }

    fn load(&self, receive: &Receive) -> Load {
        Load { queued: receive.inbox.datagrams(), free: self.port.pool().free() }
    }

    fn is_drained(&self) -> bool {
        self.life.get() != Life::Open || self.receive.borrow().machine.is_drained()
    }

    /// Sends now if that is possible without waiting.
    pub(crate) fn try_send(&self, payload: &[u8], to: Option<&SockAddr>) -> io::Result<usize> {
        self.check_open()?;
        loop {
            match self.socket.send(payload, to) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Sends by the plain call, which costs less than a lone send through the ring, and waits for
    /// room as often as it finds none.
    pub(crate) fn poll_send(
        self: &Rc<Self>,
        payload: &[u8],
        to: Option<&SockAddr>,
        room: &mut Option<InFlight<operation::Room>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(waiting) = room {
                ready!(Pin::new(waiting).poll(cx))?;
                *room = None;
            }
            ready!(poll_send_budget(cx, payload.len()));
            match self.try_send(payload, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            *room = Some(self.port.submit(operation::Room::new(self, to)?));
        }
    }

    /// Waits for room for a datagram to the connected peer.
    pub(crate) fn wait_for_room(self: &Rc<Self>) -> io::Result<InFlight<operation::Room>> {
        self.check_open()?;
        Ok(self.port.submit(operation::Room::new(self, None)?))
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Whether its kernel is one in memory.
    pub(crate) fn is_model(&self) -> bool {
        !matches!(self.socket, Socket::Kernel(_))
    }

    fn check_open(&self) -> io::Result<()> {
        match self.life.get() {
            Life::Open => Ok(()),
            Life::Closed | Life::Ended { .. } => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the ebbtide runtime of this socket has ended",
            )),
        }
    }

    /// Steps 1 to 4 of the drain for this socket alone.
    pub(crate) fn drain(self: &Rc<Self>) -> io::Result<()> {
        match self.life.get() {
            Life::Open => self.port.empty_socket(Rc::clone(self) as Rc<dyn Drainable>),
            Life::Closed | Life::Ended { .. } => Ok(()),
        }
    }

    /// The user lets go of the socket: its address is free when this returns.
    pub(crate) fn close(self: &Rc<Self>) {
        if self.life.get() != Life::Open {
            return;
        }
        self.leave();
        self.discard();
        self.note_abandonment();
        self.port.close_drainable(*self.drainable.get().expect("set when opened"));
        self.life.set(Life::Closed);
        if Rc::strong_count(self) > 1 {
            // A wait for room, whose future is gone, still holds the descriptor.
            let _ = self.socket.vacate(self.port.placeholder());
        }
    }

    /// The user takes the socket back: ends the receive, and gives the datagrams that were taken.
    pub(crate) fn detach(&self) -> io::Result<Vec<ReceivedMessage>> {
        self.check_open()?;
        self.leave();
        if let (Family::Internet, Seal::Sealed { .. }) = (self.family, self.seal.get()) {
            self.socket.kernel()?.detach_filter()?;
        }
        let arrivals = self.receive.borrow_mut().inbox.take_all();
        let taken: Vec<ReceivedMessage> = arrivals
            .into_iter()
            .filter_map(|arrival| match arrival {
                Arrival::Datagram(message) => Some(message),
                Arrival::Error(_) => None,
            })
            .collect();
        self.stats.borrow_mut().handed_over += taken.len() as u64;
        self.port.close_drainable(*self.drainable.get().expect("set when opened"));
        self.life.set(Life::Closed);
        Ok(taken)
    }

    /// Ends the receive and waits for its final completion. What it still brings is in the inbox.
    fn leave(&self) {
        let verdict = self.receive.borrow_mut().machine.stop(Then::Leave);
        self.carry_out(verdict);
        self.port.remove_sink(self.multishot());
    }

    /// Notes whether the kernel throws datagrams away with the socket. How many cannot be said
    /// without taking them, which other descriptors of the socket may still want to do.
    fn note_abandonment(&self) {
        if self.socket.peek().is_ok() {
            self.stats.borrow_mut().abandoned += 1;
        }
    }

    /// Throws away what is in the inbox, and counts it.
    fn discard(&self) {
        let thrown_away = {
            let mut receive = self.receive.borrow_mut();
            self.stats.borrow_mut().discarded += receive.inbox.datagrams() as u64;
            receive.inbox.take_all()
        };
        drop(thrown_away);
    }

    pub(crate) fn socket_stats(&self) -> SocketStats {
        let mut stats = *self.stats.borrow();
        let drops = match self.life.get() {
            Life::Ended { drops } => drops,
            Life::Open | Life::Closed => self.socket.drop_count().unwrap_or(0),
        };
        match self.seal.get() {
            Seal::Sealed { drops: at_seal } => {
                stats.dropped_by_kernel = u64::from(at_seal);
                stats.refused = u64::from(drops.wrapping_sub(at_seal));
            }
            Seal::Open | Seal::Refused { .. } => stats.dropped_by_kernel = u64::from(drops),
        }
        stats
    }

    /// Puts a message into the inbox and counts it.
    fn arrive(&self, receive: &mut Receive, mut message: ReceivedMessage, wakes: &mut Wakes) {
        let mut stats = self.stats.borrow_mut();
        stats.received += 1;
        stats.truncated += u64::from(message.is_truncated());
        let queued = receive.inbox.datagrams() + 1;
        let load = Load { queued, free: self.port.pool().free() };
        if receive.machine.place(load) == Place::Outside {
            message.leave_pool();
        }
        wakes.wake(receive.inbox.push(Arrival::Datagram(message)));
    }
}

impl Sink for Endpoint {
    fn socket(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn layout(&self) -> Layout {
        self.family.layout()
    }

    fn complete(&self, completion: Reception, wakes: &mut Wakes) -> Verdict {
        let mut receive = self.receive.borrow_mut();
        let outcome = match completion.result {
            Ok(Some(message)) => {
                self.arrive(&mut receive, message, wakes);
                Outcome::Datagram
            }
            Ok(None) => Outcome::Ended,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOBUFS) => Outcome::OutOfBuffers,
                Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => Outcome::Ended,
                _ => {
                    wakes.wake(receive.inbox.push(Arrival::Error(error)));
                    Outcome::Error
                }
            },
        };
        let load = self.load(&receive);
        let was_pausing = receive.machine.is_pausing();
        let verdict = receive.machine.complete(outcome, completion.armed, load);
        let mut stats = self.stats.borrow_mut();
        stats.paused += u64::from(receive.machine.is_pausing() && !was_pausing);
        match verdict {
            Verdict::Keep | Verdict::Cancel => {}
            Verdict::Rearm => stats.rearmed += 1,
            Verdict::RearmWhenBuffersReturn => stats.starved += 1,
        }
        verdict
    }
}

impl Drainable for Endpoint {
    fn seal(&self) -> io::Result<()> {
        if let Seal::Sealed { .. } = self.seal.get() {
            return Ok(());
        }
        let drops = self.socket.drop_count().unwrap_or(0);
        let sealed = match self.family {
            Family::Internet => self.socket.seal_by_filter(),
            Family::Unix => self.socket.seal_by_shutdown(),
        };
        self.seal.set(match sealed {
            Ok(()) => Seal::Sealed { drops },
            Err(_) => Seal::Refused { left: UNSEALED_READ_LIMIT },
        });
        sealed
    }

    fn cancel(&self) {
        let verdict = self.receive.borrow_mut().machine.stop(Then::Read);
        self.carry_out(verdict);
    }

    fn is_reaped(&self) -> bool {
        !self.receive.borrow().machine.is_cancelling()
    }

    fn read(&self, limit: usize, pass: Pass, wakes: &mut Wakes) -> ReadProgress {
        let mut receive = self.receive.borrow_mut();
        let receive = &mut *receive;
        if !receive.machine.is_reading() {
            return ReadProgress::Empty;
        }
        for _ in 0..limit {
            let read = self.socket.receive_now(
                self.family.layout(),
                &mut receive.scratch,
                self.port.buffer_size(),
            );
            let read = match read {
                Ok(message) => {
                    self.arrive(receive, message, wakes);
                    Read::Datagram
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => Read::Empty,
                    io::ErrorKind::Interrupted => Read::Interrupted,
                    _ => {
                        wakes.wake(receive.inbox.push(Arrival::Error(error)));
                        Read::Error
                    }
                },
            };
            if pass == Pass::Early && read == Read::Empty {
                return ReadProgress::Empty;
            }
            if receive.machine.read(read) == ReadOn::No || self.is_used_up() {
                receive.machine.give_up();
                receive.scratch = Vec::new();
                for waker in receive.inbox.take_wakers() {
                    wakes.wake(Some(waker));
                }
                return ReadProgress::Empty;
            }
        }
        ReadProgress::More
    }

    fn undelivered(&self) -> usize {
        if self.is_sealed() { self.receive.borrow().inbox.datagrams() } else { 0 }
    }

    fn receivers(&self) -> Receivers {
        match self.undelivered() {
            0 if self.owes_end.get() => Receivers::Uncertain,
            0 => Receivers::Served,
            _ if self.is_received_from.get() => Receivers::Expected,
            _ => Receivers::Uncertain,
        }
    }

    fn end(&self) {
        let drops = self.socket.drop_count().unwrap_or(0);
        self.life.set(Life::Ended { drops });
        self.discard();
        // It fails only for a descriptor that somebody else has closed already.
        let _ = self.socket.vacate(self.port.placeholder());
    }

    fn stats(&self) -> SocketStats {
        self.socket_stats()
    }
}

impl Endpoint {
    /// Whether the drain has come to this socket, also where the kernel refused the seal.
    fn is_sealed(&self) -> bool {
        !matches!(self.seal.get(), Seal::Open)
    }

    /// Whether a socket without a seal has been read for long enough.
    fn is_used_up(&self) -> bool {
        let Seal::Refused { left } = self.seal.get() else { return false };
        self.seal.set(Seal::Refused { left: left.saturating_sub(1) });
        left <= 1
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
