//! [`OpenSockets`]: the open sockets, and the counts of the closed ones.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use slab::Slab;

use super::exit::Exit;
use super::report::SocketStats;
use crate::task::TaskId;
use crate::wakes::Wakes;

/// A socket that can be drained.
pub trait Drainable: 'static {
    /// What the drain does with the socket.
    fn exit(&self) -> Exit;

    /// Before step 1. If other sockets may share the address, lets later datagrams go to them.
    fn leave_share(&self);

    /// Step 1. Makes the kernel queue nothing more on the socket, unless it is to be left.
    ///
    /// # Errors
    ///
    /// If the kernel refuses. The socket is then read up to a bound instead of to its end.
    fn seal(&self) -> io::Result<()>;

    /// Step 2. Cancels the receive of the socket.
    fn cancel(&self);

    /// Step 3. Whether the final completion of the receive was collected.
    fn is_reaped(&self) -> bool;

    /// Steps 4 and 5. Reads up to `limit` datagrams into the inbox, unless the socket is to be
    /// left. In the last pass, an empty queue is the end.
    fn read(&self, limit: usize, pass: Pass, wakes: &mut Wakes) -> ReadProgress;

    /// Whether the socket was not read to the end of its queue, and will not be unless it is
    /// drained again.
    fn is_given_up(&self) -> bool;

    /// Whether the drain has sealed the socket, or tried to and was refused.
    fn is_sealed(&self) -> bool;

    /// Step 5. How many datagrams are in the inbox, if the socket is sealed.
    fn undelivered(&self) -> usize;

    /// How many buffers of the pool the inbox has.
    fn buffers_held(&self) -> usize;

    /// How many datagrams were handed to receivers.
    fn delivered(&self) -> u64;

    /// Step 5. Reads what the kernel still has, then returns who receives from the socket.
    fn receivers(&self, wakes: &mut Wakes) -> Receivers;

    /// Step 5. If the socket is sealed, reads the rest of its queue, a batch at a time, and
    /// discards it with the inbox. Returns how many datagrams that were. Receivers get the end.
    fn discard_rest(&self, wakes: &mut Wakes) -> usize;

    /// Step 6. Discards the inbox and releases the address. Nothing of the socket is in flight.
    fn end(&self);

    /// The counts of the socket.
    fn stats(&self) -> SocketStats;
}

/// The tasks that receive from a socket.
#[derive(Clone, Debug, Default)]
pub struct Receivers {
    /// The tasks that have received from it and have not got the end. Some may have ended.
    pub members: Vec<Member>,
    /// Whether there were others, which have ended.
    pub has_forgotten: bool,
}

/// A task that receives from a socket. If several of its futures receive, it may be listed several
/// times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The task.
    pub task: TaskId,
    /// Where the task is.
    pub presence: Presence,
    /// The number of the last datagram that it was handed:
    /// [`Registration::note_answer`](crate::Registration::note_answer) counts them.
    pub last_handed: u32,
}

/// Where a receiver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It waits for a datagram.
    Waiting,
    /// It was handed a datagram, and is expected to come back.
    Handling,
    /// It was handed a datagram before the seal, and is expected to come back.
    HandlingSinceBefore,
    /// It has asked for a datagram once, and does not wait now.
    Absent,
}

/// Before or after the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Before the seal, or while senders are waited for: more datagrams may arrive.
    Early,
    /// After the seal: the queue only shrinks.
    Last,
}

/// How far a socket was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadProgress {
    /// There may be more.
    More,
    /// The queue is empty, and after the seal stays empty. Or the socket was given up.
    Ended,
}

/// What the runtime knows of its sockets.
#[derive(Default)]
pub(crate) struct OpenSockets {
    open: RefCell<Slab<Rc<dyn Drainable>>>,
    /// The counts of the sockets that were closed.
    closed: RefCell<SocketStats>,
    /// How many of the closed sockets had been given up.
    closed_given_up: Cell<usize>,
}

/// Identifies an open socket.
#[derive(Clone, Copy, Debug)]
pub struct DrainKey(usize);

impl OpenSockets {
    /// Adds a socket, so that the drain finds it.
    pub(crate) fn enter(&self, socket: Rc<dyn Drainable>) -> DrainKey {
        DrainKey(self.open.borrow_mut().insert(socket))
    }

    /// Removes a closed socket and keeps its counts.
    pub(crate) fn leave(&self, key: DrainKey) {
        let socket = self.open.borrow_mut().try_remove(key.0);
        if let Some(socket) = socket {
            self.close(&*socket);
        }
    }

    /// Removes all sockets, to end them.
    pub(crate) fn take_open(&self) -> Vec<Rc<dyn Drainable>> {
        self.open.borrow_mut().drain().collect()
    }

    /// Keeps the counts of a socket that was removed.
    pub(crate) fn close(&self, socket: &dyn Drainable) {
        let stats = socket.stats();
        *self.closed.borrow_mut() += stats;
        let given_up = usize::from(socket.is_given_up());
        self.closed_given_up.set(self.closed_given_up.get() + given_up);
    }

    /// How many open sockets are given up.
    pub(crate) fn given_up(&self) -> usize {
        self.open.borrow().iter().filter(|(_, socket)| socket.is_given_up()).count()
    }

    /// How many closed sockets had been given up.
    pub(crate) fn closed_given_up(&self) -> usize {
        self.closed_given_up.get()
    }

    pub(crate) fn open(&self) -> Vec<Rc<dyn Drainable>> {
        self.open.borrow().iter().map(|(_, socket)| Rc::clone(socket)).collect()
    }

    pub(crate) fn stats(&self) -> SocketStats {
        let mut stats = *self.closed.borrow();
        stats += self.open().iter().map(|socket| socket.stats()).sum();
        stats
    }

    /// How many datagrams are in the inboxes of sealed sockets.
    pub(crate) fn undelivered(&self) -> usize {
        self.open().iter().map(|socket| socket.undelivered()).sum()
    }

    /// How many datagrams sealed sockets have handed to receivers. Those of sockets that wait for
    /// their stage are no progress of the drain.
    pub(crate) fn delivered(&self) -> u64 {
        let open = self.open.borrow();
        let sealed = open.iter().filter(|(_, socket)| socket.is_sealed());
        sealed.map(|(_, socket)| socket.delivered()).sum()
    }

    /// How many buffers of the pool the inboxes have.
    pub(crate) fn buffers_held(&self) -> usize {
        self.open.borrow().iter().map(|(_, socket)| socket.buffers_held()).sum()
    }
}
