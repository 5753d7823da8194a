//! The seam: what carries out requests and brings completions. A ring, or epoll.
//!
//! Both take the same requests and bring the same completions; [`Driver`](super::Driver) keeps the
//! table and knows neither.

// UNSAFETY: `Ring::receive` hands raw pointers to the kernel.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::epoll::Epoll;
use super::intake::Intake;
use super::operation::AnyOperation;
use super::ring::Ring;
use super::sink::Sink;
use super::table::Id;

pub(super) enum Backend {
    Ring(Ring),
    Epoll(Epoll),
    /// After the end: takes nothing and brings nothing.
    Ended,
}

/// How long an enter may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// Until there is a completion, or the time is over.
    AtMost(Duration),
    /// Until there is a completion.
    Forever,
}

/// How an enter went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// As asked, or cut short by a signal or the time.
    Done,
    /// The kernel had no memory for it just now; what was pushed is still queued.
    Refused,
    /// The kernel lost completions for want of memory.
    CompletionLost,
    /// It failed for a reason that is no part of life, which
    /// [`Driver::failure`](super::Driver::failure) names. What was pushed is still queued.
    Failed,
}

impl Backend {
    /// Begins an operation, which keeps open what it names until its final completion.
    pub(super) fn submit(&mut self, id: Id, operation: &mut dyn AnyOperation) {
        match self {
            Self::Ring(ring) => ring.submit(id, &operation.submission()),
            Self::Epoll(epoll) => epoll.submit(id),
            Self::Ended => {}
        }
    }

    /// Begins a receive.
    ///
    /// # Safety
    ///
    /// `template` must stay where it is until the final completion was collected, and the pool must
    /// outlive the backend.
    pub(super) unsafe fn receive(&mut self, id: Id, sink: &Rc<dyn Sink>, template: &libc::msghdr) {
        match self {
            // SAFETY: the caller answers for it.
            Self::Ring(ring) => unsafe { ring.receive(id, sink.socket(), template) },
            Self::Epoll(epoll) => epoll.receive(id, Rc::clone(sink)),
            Self::Ended => {}
        }
    }

    /// Asks for the end of what `id` names. Its final completion still comes.
    pub(super) fn cancel(&mut self, id: Id) {
        match self {
            Self::Ring(ring) => ring.cancel(id),
            Self::Epoll(epoll) => epoll.cancel(id),
            Self::Ended => {}
        }
    }

    /// A sink goes, and may close its socket.
    pub(super) fn forget(&mut self, sink: &Rc<dyn Sink>) {
        if let Self::Epoll(epoll) = self {
            epoll.forget(sink.socket());
        }
    }

    /// One visit to the kernel: to submit, to let it bring what it has, and to wait if asked to.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<Entered> {
        match self {
            Self::Ring(ring) => ring.enter(wait),
            Self::Epoll(epoll) => epoll.enter(wait).map(|()| Entered::Done),
            Self::Ended => Ok(Entered::Done),
        }
    }

    /// Hands over the completions that there are.
    pub(super) fn collect(&mut self, intake: &mut Intake<'_>) {
        match self {
            Self::Ring(ring) => {
                ring.collect(|id, result, buffer, finality| {
                    intake.complete(id, result, buffer, finality);
                });
                intake.end_run();
            }
            Self::Epoll(epoll) => epoll.collect(intake),
            Self::Ended => {}
        }
    }

    /// Whether `collect` would hand over something.
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

    /// Other threads will not wake it any more.
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

    /// Visits to the kernel so far.
    pub(super) fn enters(&self) -> u64 {
        match self {
            Self::Ring(ring) => ring.enters(),
            Self::Epoll(epoll) => epoll.waits(),
            Self::Ended => 0,
        }
    }
}
