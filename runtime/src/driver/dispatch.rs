//! [`Dispatch`]: where completions go, whichever backend brings them.

use std::rc::Rc;

use super::operation::{ActiveOperations, AnyOperation};
use super::receive::{Batch, Filled, Receive, Verdict};
use super::table::{Completion, Finality, Id, Table};
use crate::buffer::{Buffer, Pool};
use crate::wakes::Wakes;

/// Passes completions to the table, and from there to futures and sinks.
pub(super) struct Dispatch<'a> {
    pub(super) table: &'a mut Table<Box<dyn AnyOperation>, Rc<Receive>>,
    pub(super) pool: &'a Pool,
    pub(super) active: &'a mut ActiveOperations,
    pub(super) completions: &'a mut u64,
    pub(super) burst: &'a mut Burst,
    /// Carried out after all completions.
    pub(super) verdicts: &'a mut Vec<(Rc<Receive>, Verdict)>,
    pub(super) wakes: &'a mut Wakes,
}

/// Consecutive messages of one receive, which go to its sink together.
#[derive(Default)]
pub(super) struct Burst {
    /// The receive. `None` if there is no burst.
    of: Option<Id>,
    /// Each is `None` after it was taken.
    filled: Vec<Option<Filled>>,
}

impl Dispatch<'_> {
    /// Takes a completion of a ring, with the buffer that it names.
    #[inline]
    pub(super) fn complete(
        &mut self,
        id: Id,
        result: i32,
        buffer: Option<u16>,
        finality: Finality,
    ) {
        match (buffer, u32::try_from(result)) {
            (Some(buffer), Ok(len)) => {
                self.receive(id, finality, |pool| Filled { buffer: pool.take(buffer), len });
            }
            (Some(buffer), Err(_)) => {
                // A receive that fails on a worker thread of the kernel may keep the buffer that it
                // picked.
                drop(self.pool.take(buffer));
                self.accept(id, result, finality);
            }
            (None, _) => self.accept(id, result, finality),
        }
    }

    /// Takes a completion of a receive that has filled a buffer. `take` takes the buffer from the
    /// pool. It is called after the burst that this completion ends was handed over, because the
    /// share of that socket depends on how many buffers are free.
    ///
    /// Call [`end_burst`](Self::end_burst) after the last completion.
    #[inline]
    pub(super) fn receive(
        &mut self,
        id: Id,
        finality: Finality,
        take: impl FnOnce(&Pool) -> Filled,
    ) {
        match self.burst.of {
            Some(of) if of == id && finality == Finality::More => {
                *self.completions += 1;
                self.burst.filled.push(Some(take(self.pool)));
            }
            _ => self.begin_burst(id, finality, take),
        }
    }

    fn begin_burst(&mut self, id: Id, finality: Finality, take: impl FnOnce(&Pool) -> Filled) {
        self.end_burst();
        *self.completions += 1;
        let filled = take(self.pool);
        let completion = self.table.complete(id, 0, finality);
        // A sink that panicked may have left some.
        self.burst.filled.clear();
        self.burst.filled.push(Some(filled));
        match completion {
            Completion::Deliver => self.burst.of = Some(id),
            Completion::DeliverLast(receive) => {
                let batch = Batch::new(&mut self.burst.filled);
                let verdict = receive.deliver(batch, Finality::Final, self.wakes);
                self.verdicts.push((receive, verdict));
            }
            Completion::Wake(_) | Completion::Retire(_) | Completion::Stale => {
                self.burst.filled.clear();
            }
        }
    }

    /// Takes any other completion.
    pub(super) fn accept(&mut self, id: Id, result: i32, finality: Finality) {
        self.end_burst();
        *self.completions += 1;
        match self.table.complete(id, result, finality) {
            Completion::Wake(waker) => {
                if finality == Finality::Final {
                    self.active.completed(self.table.operation(id).activity());
                }
                self.wakes.wake(waker);
            }
            Completion::Retire(operation) => {
                self.active.retired(operation.as_ref().activity());
                self.wakes.retire(operation);
            }
            Completion::DeliverLast(receive) => {
                let verdict = receive.end(result, Finality::Final, self.wakes);
                self.verdicts.push((receive, verdict));
            }
            Completion::Deliver => {
                let receive = self.table.multishot(id).expect("it goes on");
                let verdict = receive.end(result, Finality::More, self.wakes);
                self.judge(id, verdict);
            }
            Completion::Stale => {}
        }
    }

    /// Hands the burst to its sink, and returns the verdict of the sink.
    #[inline]
    pub(super) fn end_burst(&mut self) -> Verdict {
        let Some(id) = self.burst.of.take() else { return Verdict::Keep };
        let receive = self.table.multishot(id).expect("it stays to its final completion");
        let batch = Batch::new(&mut self.burst.filled);
        let verdict = receive.deliver(batch, Finality::More, self.wakes);
        self.judge(id, verdict);
        verdict
    }

    /// Records the verdict about a receive that goes on.
    #[inline]
    fn judge(&mut self, id: Id, verdict: Verdict) {
        if verdict != Verdict::Keep {
            let receive = self.table.multishot(id).expect("it goes on");
            self.verdicts.push((Rc::clone(receive), verdict));
        }
    }

    /// The operation of an id that is in flight.
    pub(super) fn operation(&mut self, id: Id) -> &mut dyn AnyOperation {
        self.table.operation(id).as_mut()
    }

    /// A free buffer, to be filled directly.
    pub(super) fn take_buffer(&mut self) -> Option<Buffer> {
        self.pool.take_free()
    }
}
