//! [`Intake`]: where completions go, whichever backend brings them.

use super::message::{Batch, Filled};
use super::multishots::{MultishotKey, Multishots};
use super::operation::{ActiveOperations, AnyOperation};
use super::sink::{Verdict, Wakes};
use super::table::{Completion, Finality, Id, Table};
use crate::buffer::{Buffer, Pool};

/// Where completions go: to the table, and from there to futures and sinks.
pub(super) struct Intake<'a> {
    pub(super) table: &'a mut Table<Box<dyn AnyOperation>, MultishotKey>,
    pub(super) multishots: &'a mut Multishots,
    pub(super) pool: &'a Pool,
    pub(super) active: &'a mut ActiveOperations,
    pub(super) completions: &'a mut u64,
    pub(super) run: &'a mut Run,
    /// To be carried out when all completions are in.
    pub(super) verdicts: &'a mut Vec<(MultishotKey, Verdict)>,
    pub(super) wakes: &'a mut Wakes,
}

/// Messages of one receive that came one after the other, and go to its sink together.
#[derive(Default)]
pub(super) struct Run {
    /// Of which receive. `None` while there is no run.
    of: Option<(Id, MultishotKey)>,
    /// Each is `None` once it was taken.
    filled: Vec<Option<Filled>>,
}

impl Intake<'_> {
    /// Takes in a completion of a ring, and the buffer that came with it.
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
                self.receive(id, finality, |pool| Filled::new(pool.take(buffer), len));
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
                self.run.filled.push(Some(take(self.pool)));
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
            // A sink that panicked may have left some.
            self.run.filled.clear();
            self.run.filled.push(Some(filled));
            if finality == Finality::Final {
                self.deliver(finality);
            }
        }
    }

    /// Takes in any other completion.
    pub(super) fn accept(&mut self, id: Id, result: i32, finality: Finality) {
        self.end_run();
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
