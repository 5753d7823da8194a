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
use super::message::{Batch, Filled};
use super::multishots::{MultishotKey, Multishots};
use super::operation::AnyOperation;
use super::ring::Ring;
use super::sink::{Sink, Verdict, Wakes};
use super::table::{Completion, Finality, Id, Table};
use crate::buffer::{Buffer, Pool};

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
    /// The kernel lost a completion for want of memory (`-EBADR`).
    CompletionLost,
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
                    match (buffer, u32::try_from(result)) {
                        (Some(buffer), Ok(len)) => {
                            intake.receive(id, finality, |pool| Filled::take(pool, buffer, len));
                        }
                        (Some(buffer), Err(_)) => {
                            // A receive that fails on a worker thread of the kernel may keep the
                            // buffer that it picked.
                            Filled::take(intake.pool, buffer, 0).give_back(intake.pool);
                            intake.accept(id, result, finality);
                        }
                        (None, _) => intake.accept(id, result, finality),
                    }
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

    /// Visits to the kernel so far.
    pub(super) fn enters(&self) -> u64 {
        match self {
            Self::Ring(ring) => ring.enters(),
            Self::Epoll(epoll) => epoll.waits(),
            Self::Ended => 0,
        }
    }
}

/// Where completions go: to the table, and from there to futures and sinks.
pub(super) struct Intake<'a> {
    pub(super) table: &'a mut Table<Box<dyn AnyOperation>, MultishotKey>,
    pub(super) multishots: &'a mut Multishots,
    pub(super) pool: &'a Pool,
    pub(super) active: &'a mut usize,
    pub(super) completions: &'a mut u64,
    pub(super) run: &'a mut Run,
    /// To be carried out when all completions are in.
    pub(super) verdicts: &'a mut Vec<(MultishotKey, Verdict)>,
    pub(super) wakes: &'a mut Wakes,
}

/// Messages of one receive that came one after the other, and go to its sink together.
#[derive(Default)]
pub(super) struct Run {
    /// Of which receive. `None` exactly while it is empty.
    of: Option<(Id, MultishotKey)>,
    filled: Vec<Filled>,
}

impl Intake<'_> {
    /// Takes in a completion of a receive that has filled a buffer, which `take` takes from the pool:
    /// not before the run that it ends was handed over, whose socket is judged by what is free.
    /// [`end_run`](Self::end_run) is to follow when there is no other.
    #[inline]
    pub(super) fn receive(
        &mut self,
        id: Id,
        finality: Finality,
        take: impl FnOnce(&Pool) -> Filled,
    ) {
        match self.run.of {
            Some((of, _)) if of == id && finality == Finality::More => {
                *self.completions += 1;
                self.run.filled.push(take(self.pool));
            }
            _ => self.begin_run(id, finality, take),
        }
    }

    fn begin_run(&mut self, id: Id, finality: Finality, take: impl FnOnce(&Pool) -> Filled) {
        self.end_run();
        *self.completions += 1;
        let filled = take(self.pool);
        if let Completion::Deliver(key) = self.table.complete(id, 0, finality) {
            self.run.of = Some((id, key));
            self.run.filled.push(filled);
            if finality == Finality::Final {
                self.deliver(finality);
            }
        } else {
            filled.give_back(self.pool);
        }
    }

    /// Takes in any other completion.
    pub(super) fn accept(&mut self, id: Id, result: i32, finality: Finality) {
        self.end_run();
        *self.completions += 1;
        match self.table.complete(id, result, finality) {
            Completion::Wake(waker) => self.wakes.wake(waker),
            Completion::Retire(operation) => {
                *self.active -= operation.as_ref().activity().count();
                self.wakes.retire(operation);
            }
            Completion::Deliver(key) => {
                let multishot = self.multishots.get_mut(key);
                let multishot = multishot.expect("it stays to its final completion");
                let verdict = multishot.end(result, finality, self.wakes);
                self.judge(key, verdict, finality);
            }
            Completion::Stale => {}
        }
    }

    /// Hands the run to its sink, and gives what that answers.
    #[inline]
    pub(super) fn end_run(&mut self) -> Verdict {
        self.deliver(Finality::More)
    }

    fn deliver(&mut self, finality: Finality) -> Verdict {
        let Some((_, key)) = self.run.of.take() else { return Verdict::Keep };
        let multishot = self.multishots.get_mut(key).expect("it stays to its final completion");
        let batch = Batch::new(&mut self.run.filled);
        let verdict = multishot.deliver(batch, finality, self.wakes);
        self.judge(key, verdict, finality);
        verdict
    }

    /// Notes what is to be done.
    fn judge(&mut self, key: MultishotKey, verdict: Verdict, finality: Finality) {
        if finality == Finality::Final || verdict != Verdict::Keep {
            self.verdicts.push((key, verdict));
        }
    }

    /// The operation of an id that is in flight.
    pub(super) fn operation(&mut self, id: Id) -> &mut dyn AnyOperation {
        self.table.operation(id).as_mut()
    }

    /// A free buffer to be filled by hand.
    pub(super) fn take_buffer(&mut self) -> Option<Buffer> {
        self.pool.take_free()
    }
}
