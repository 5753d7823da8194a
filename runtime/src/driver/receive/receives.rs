//! [`Receive`] and [`Receives`]: the receives of a driver, the state of each, and which wait for
//! buffers.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use slab::Slab;

use super::batch::Batch;
use super::recvmmsg::request;
use super::sink::{Armed, Sink, Verdict};
use crate::driver::table::{Finality, Id};
use crate::wakes::Wakes;

/// Identifies the receive of a socket, as long as the socket exists. It stays the same when the
/// receive is armed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReceiveKey(usize);

/// The multishot receive of one socket.
///
/// While it is in flight, its slot of the table owns it. It owns the sink, which keeps the socket
/// open, and the request, which the kernel may read after the submission.
pub(in crate::driver) struct Receive {
    key: ReceiveKey,
    sink: Rc<dyn Sink>,
    request: libc::msghdr,
    phase: Cell<Phase>,
    /// True after its socket was closed: it is not armed again.
    has_left: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// It waits for buffers.
    Starved,
    InFlight(Id),
    /// It was cancelled. The final completion was not collected yet.
    Cancelling(Id),
}

/// What the driver must do to cancel a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Cancel {
    /// Ask the backend.
    Ask(Id),
    /// Nothing: the backend was asked before.
    Asked,
    /// Nothing: it is not in flight.
    NotInFlight,
}

impl Receive {
    /// The socket to receive from, which is open as long as `self`.
    pub(in crate::driver) fn socket(&self) -> BorrowedFd<'_> {
        self.sink.socket()
    }

    pub(in crate::driver) fn sink(&self) -> &dyn Sink {
        &*self.sink
    }

    /// The msghdr that the kernel reads.
    pub(in crate::driver) fn request(&self) -> &libc::msghdr {
        &self.request
    }

    pub(in crate::driver) fn key(&self) -> ReceiveKey {
        self.key
    }

    /// Whether it is not in flight.
    pub(in crate::driver) fn is_idle(&self) -> bool {
        matches!(self.phase.get(), Phase::Idle | Phase::Starved)
    }

    /// Whether its socket was closed.
    pub(in crate::driver) fn has_left(&self) -> bool {
        self.has_left.get()
    }

    /// It is in flight as `id` from now on.
    pub(in crate::driver) fn armed(&self, id: Id) {
        self.phase.set(Phase::InFlight(id));
    }

    /// Cancels it, if it is in flight, or stops its wait for buffers.
    pub(in crate::driver) fn cancel(&self) -> Cancel {
        match self.phase.get() {
            Phase::InFlight(id) => {
                self.phase.set(Phase::Cancelling(id));
                Cancel::Ask(id)
            }
            Phase::Cancelling(_) => Cancel::Asked,
            Phase::Starved => {
                self.phase.set(Phase::Idle);
                Cancel::NotInFlight
            }
            Phase::Idle => Cancel::NotInFlight,
        }
    }

    /// Passes messages to the sink.
    #[inline]
    pub(in crate::driver) fn deliver(
        &self,
        batch: Batch<'_>,
        finality: Finality,
        wakes: &mut Wakes,
    ) -> Verdict {
        self.sink.receive(batch, self.after(finality), wakes)
    }

    /// Passes a completion without a message to the sink.
    pub(in crate::driver) fn end(
        &self,
        result: i32,
        finality: Finality,
        wakes: &mut Wakes,
    ) -> Verdict {
        let error = (result < 0).then(|| io::Error::from_raw_os_error(-result));
        self.sink.end(error, self.after(finality), wakes)
    }

    /// Whether it goes on after a completion.
    #[inline]
    fn after(&self, finality: Finality) -> Armed {
        match finality {
            Finality::More => Armed::Still,
            Finality::Final => {
                self.phase.set(Phase::Idle);
                Armed::NoMore
            }
        }
    }
}

/// The receives of all open sockets.
#[derive(Default)]
pub(in crate::driver) struct Receives {
    members: Slab<Rc<Receive>>,
    /// Receives that ended because there were no buffers, the longest wait first. Some may have
    /// been cancelled or removed meanwhile.
    starved: VecDeque<ReceiveKey>,
}

impl Receives {
    pub(in crate::driver) fn insert(&mut self, sink: Rc<dyn Sink>) -> ReceiveKey {
        let request = request(sink.layout());
        let place = self.members.vacant_entry();
        let key = ReceiveKey(place.key());
        let (phase, has_left) = (Cell::new(Phase::Idle), Cell::new(false));
        place.insert(Rc::new(Receive { key, sink, request, phase, has_left }));
        key
    }

    pub(in crate::driver) fn get(&self, key: ReceiveKey) -> Option<&Rc<Receive>> {
        self.members.get(key.0)
    }

    /// Removes the receive of a socket that is closed. If it is in flight, its slot of the table
    /// still owns it.
    pub(in crate::driver) fn remove(&mut self, key: ReceiveKey) -> Option<Rc<Receive>> {
        let receive = self.members.try_remove(key.0)?;
        receive.has_left.set(true);
        Some(receive)
    }

    /// Makes sure that none is armed again.
    pub(in crate::driver) fn leave_all(&self) {
        self.members.iter().for_each(|(_, receive)| receive.has_left.set(true));
    }

    /// Removes all.
    pub(in crate::driver) fn drain(&mut self) -> impl Iterator<Item = Rc<Receive>> {
        self.members.drain()
    }

    /// Puts an idle receive at the end of those that wait for buffers.
    pub(in crate::driver) fn starve(&mut self, key: ReceiveKey) {
        let Some(receive) = self.members.get(key.0) else { return };
        if receive.phase.get() == Phase::Idle {
            receive.phase.set(Phase::Starved);
            self.starved.push_back(key);
        }
    }

    /// Takes the receive that has waited longest for buffers.
    pub(in crate::driver) fn next_starved(&mut self) -> Option<ReceiveKey> {
        while let Some(key) = self.starved.pop_front() {
            if self.get(key).is_some_and(|receive| receive.phase.get() == Phase::Starved) {
                return Some(key);
            }
        }
        None
    }

    /// Whether any may wait for buffers.
    pub(in crate::driver) fn has_starved(&self) -> bool {
        !self.starved.is_empty()
    }
}
