//! The backend: io_uring, or epoll. It carries out requests and brings completions.
//!
//! Both take the same requests and bring the same completions. [`Driver`](super::Driver) has the
//! table and knows neither.

use std::io;
use std::rc::Rc;

use super::dispatch::Dispatch;
use super::enter::{EnterOutcome, Wait};
use super::epoll::Epoll;
use super::operation::AnyOperation;
use super::receive::Receive;
use super::ring::Ring;
use super::table::Id;

pub(super) enum Backend {
    Ring(Ring),
    Epoll(Epoll),
    /// After the end: takes nothing and brings nothing.
    Ended,
}

impl Backend {
    /// Begins an operation. The operation keeps its descriptor open until its final completion.
    pub(super) fn submit(&mut self, id: Id, operation: &mut dyn AnyOperation) {
        match self {
            Self::Ring(ring) => ring.submit(id, &operation.request()),
            Self::Epoll(epoll) => epoll.submit(id),
            Self::Ended => {}
        }
    }

    /// Begins a receive. Its slot in the table owns it until its final completion.
    pub(super) fn receive(&mut self, id: Id, receive: &Rc<Receive>) {
        match self {
            Self::Ring(ring) => ring.receive(id, receive),
            Self::Epoll(epoll) => epoll.receive(id, Rc::clone(receive)),
            Self::Ended => {}
        }
    }

    /// Cancels what `id` names. Its final completion still follows.
    pub(super) fn cancel(&mut self, id: Id) {
        match self {
            Self::Ring(ring) => ring.cancel(id),
            Self::Epoll(epoll) => epoll.cancel(id),
            Self::Ended => {}
        }
    }

    /// The receive was removed, and its socket may be closed next.
    pub(super) fn forget(&mut self, receive: &Receive) {
        if let Self::Epoll(epoll) = self {
            epoll.forget(receive.socket());
        }
    }

    /// Visits the kernel once: submits, lets it post completions, and waits as `wait` says.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<EnterOutcome> {
        match self {
            Self::Ring(ring) => ring.enter(wait),
            Self::Epoll(epoll) => epoll.enter(wait).map(|()| EnterOutcome::Done),
            Self::Ended => Ok(EnterOutcome::Done),
        }
    }

    /// Hands over all completions.
    pub(super) fn collect(&mut self, dispatch: &mut Dispatch<'_>) {
        match self {
            Self::Ring(ring) => {
                ring.collect(|id, result, buffer, finality| {
                    dispatch.complete(id, result, buffer, finality);
                });
                dispatch.end_burst();
            }
            Self::Epoll(epoll) => epoll.collect(dispatch),
            Self::Ended => {}
        }
    }

    /// Whether `collect` would hand something over.
    pub(super) fn has_completions(&mut self) -> bool {
        match self {
            Self::Ring(ring) => ring.has_completions(),
            Self::Epoll(epoll) => epoll.has_work(),
            Self::Ended => false,
        }
    }

    /// Whether an enter without waiting would bring something that the last one left behind.
    pub(super) fn has_work(&mut self) -> bool {
        match self {
            Self::Ring(ring) => ring.has_work(),
            Self::Epoll(epoll) => epoll.has_work(),
            Self::Ended => false,
        }
    }

    /// Ends the watch of the eventfd: other threads will no longer wake this one.
    pub(super) fn stop_watching(&mut self) {
        if let Self::Ring(ring) = self {
            ring.stop_watching();
        }
    }

    /// Whether anything of the backend's own is in flight.
    pub(super) fn is_watching(&self) -> bool {
        matches!(self, Self::Ring(ring) if ring.is_watching())
    }

    /// How many completions the kernel has lost.
    pub(super) fn lost(&self) -> u64 {
        if let Self::Ring(ring) = self { ring.lost() } else { 0 }
    }

    /// How often the kernel was visited.
    pub(super) fn enters(&self) -> u64 {
        match self {
            Self::Ring(ring) => ring.enters(),
            Self::Epoll(epoll) => epoll.waits(),
            Self::Ended => 0,
        }
    }
}
