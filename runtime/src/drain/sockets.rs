//! [`OpenSockets`]: the sockets that are open, and what the closed ones counted.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use slab::Slab;

use super::exit::Exit;
use super::report::SocketStats;
use crate::task::TaskId;
use crate::wakes::Wakes;

/// A socket, as the drain sees it.
pub trait Drainable: 'static {
    /// What is to become of it.
    fn exit(&self) -> Exit;

    /// Before step 1. Leaves what comes from now on to other sockets that share its address, if there
    /// may be such.
    fn leave_share(&self);

    /// Step 1. Makes the kernel queue nothing more on it, unless it is to be left.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses; the socket is then read up to a bound instead of to its end.
    fn seal(&self) -> io::Result<()>;

    /// Step 2. Asks for the end of its receive.
    fn cancel(&self);

    /// Step 3. Whether the final completion of its receive was collected.
    fn is_reaped(&self) -> bool;

    /// Steps 4 and 5. Reads up to `limit` datagrams into its inbox, if it is to be read. In the
    /// last pass, an empty queue is the end.
    fn read(&self, limit: usize, pass: Pass, wakes: &mut Wakes) -> ReadProgress;

    /// Whether it was not read to the end of its queue and will not be, unless it is drained again.
    fn is_given_up(&self) -> bool;

    /// Whether the drain has come to it, also where the kernel refused the seal.
    fn is_sealed(&self) -> bool;

    /// Step 5. How many datagrams wait in its inbox, if it is sealed.
    fn undelivered(&self) -> usize;

    /// How many buffers of the pool its inbox holds.
    fn buffers_held(&self) -> usize;

    /// How many datagrams it has handed to receivers.
    fn delivered(&self) -> u64;

    /// Step 5. Who receives from it, after a look at what the kernel still has.
    fn receivers(&self, wakes: &mut Wakes) -> Receivers;

    /// Step 5. Reads what is left, if it is sealed, a batch at a time, and throws it away. Returns
    /// how many datagrams there were, those of the inbox included. Its receivers see the end.
    fn discard_rest(&self, wakes: &mut Wakes) -> usize;

    /// Step 6. Throws away what is in its inbox, and gives its address back. Nothing of it is in
    /// flight any more.
    fn end(&self);

    /// What has happened on it.
    fn stats(&self) -> SocketStats;
}

/// Who receives from a socket.
#[derive(Clone, Debug, Default)]
pub struct Receivers {
    /// All that have received from it and were not told the end. Some may have ended.
    pub members: Vec<Member>,
    /// Whether there were others, which have ended.
    pub has_forgotten: bool,
}

/// A task that receives from a socket. One with several futures that do may be there several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which task.
    pub task: TaskId,
    /// Where it is.
    pub presence: Presence,
    /// The last datagram that it was handed, as [`Registration::told`](crate::Registration::told) counts them.
    pub last_handed: u32,
}

/// Where a receiver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It waits for a datagram.
    Waiting,
    /// It was handed a datagram, and is expected back.
    Away,
    /// The same, from before the seal.
    AwayBefore,
    /// It has asked once, and does not wait now.
    Elsewhere,
}

/// Which reading it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Before the seal, or while senders are waited for: more may come.
    Early,
    /// After the seal: the queue only shrinks.
    Last,
}

/// How far the reading of a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadProgress {
    /// There may be more.
    More,
    /// The queue is empty, which after the seal it stays; or the socket was given up.
    Ended,
}

/// What the runtime knows of its sockets.
#[derive(Default)]
pub(crate) struct OpenSockets {
    open: RefCell<Slab<Rc<dyn Drainable>>>,
    /// The counts of the sockets that were closed.
    closed: RefCell<SocketStats>,
    /// How many of the closed ones had been given up.
    closed_given_up: Cell<usize>,
}

/// Names a socket among the open ones.
#[derive(Clone, Copy, Debug)]
pub struct DrainKey(usize);

impl OpenSockets {
    /// Enters a socket, so that the drain finds it.
    pub(crate) fn enter(&self, socket: Rc<dyn Drainable>) -> DrainKey {
        DrainKey(self.open.borrow_mut().insert(socket))
    }

    /// Takes a closed socket out and keeps its counts.
    pub(crate) fn leave(&self, key: DrainKey) {
        let socket = self.open.borrow_mut().try_remove(key.0);
        if let Some(socket) = socket {
            self.close(&*socket);
        }
    }

    /// Takes all sockets out, to end them.
    pub(crate) fn take_open(&self) -> Vec<Rc<dyn Drainable>> {
        self.open.borrow_mut().drain().collect()
    }

    /// Keeps the counts of a socket that was taken out.
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

    /// How many sockets were closed that had been given up.
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

    /// How many datagrams wait in the inboxes of sealed sockets.
    pub(crate) fn undelivered(&self) -> usize {
        self.open().iter().map(|socket| socket.undelivered()).sum()
    }

    /// How many datagrams sealed sockets have handed to receivers. What others bring while they wait
    /// for their stage is no sign of it.
    pub(crate) fn delivered(&self) -> u64 {
        let open = self.open.borrow();
        let sealed = open.iter().filter(|(_, socket)| socket.is_sealed());
        sealed.map(|(_, socket)| socket.delivered()).sum()
    }

    /// How many buffers of the pool the inboxes hold.
    pub(crate) fn buffers_held(&self) -> usize {
        self.open.borrow().iter().map(|(_, socket)| socket.buffers_held()).sum()
    }
}
