//! The table of operations in flight. Pure: its methods report what happened and return what the
//! driver has to do. It knows no ring; its tests feed it numbers.
//!
//! Invariant **owned until final**: memory that a submission names belongs to this table from
//! before it is pushed until the *final* completion was collected. A dropped future orphans its
//! operation; it never frees it. Every `SAFETY` comment of the driver relies on this.
//!
//! Ids have a generation, so that a late completion never reaches a slot that was used again.

use std::mem;
use std::task::Waker;

/// Identifies an operation in flight. It is the user data of the request and of its completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id {
    index: u32,
    generation: u32,
}

impl Id {
    pub(crate) fn to_user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(crate) fn from_user_data(user_data: u64) -> Self {
        Self { index: (user_data & 0xffff_ffff) as u32, generation: (user_data >> 32) as u32 }
    }
}

/// Operations `O`, and receives `M`, which are multishot requests.
#[derive(Debug)]
pub(crate) struct Table<O, M> {
    slots: Vec<Slot<O, M>>,
    /// Head of the list of vacant slots. `None` if all are in use.
    vacant: Option<u32>,
    /// How many slots wait for their final completion.
    in_flight: usize,
}

#[derive(Debug)]
struct Slot<O, M> {
    /// Incremented when the slot is freed. An id with another generation is stale.
    generation: u32,
    state: State<O, M>,
}

#[derive(Debug)]
enum State<O, M> {
    Vacant {
        next: Option<u32>,
    },
    /// In flight, and a future waits for it. `waker` is `None` until the future was polled.
    Waiting {
        operation: O,
        waker: Option<Waker>,
    },
    /// In flight, and its future was dropped.
    Orphaned {
        operation: O,
    },
    /// The final completion was collected. The future has not taken the result yet.
    Completed {
        operation: O,
        result: i32,
    },
    /// In flight until a final completion. Owns the receive until then.
    Multishot {
        member: M,
    },
}

/// Whether a completion ends its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finality {
    /// The kernel will post more (`IORING_CQE_F_MORE`), and may still use the memory.
    More,
    Final,
}

/// What the driver must do with a completion.
#[derive(Debug)]
pub(crate) enum Completion<O, M> {
    /// Wake the future that waits. `None`: it was not polled yet, and will see the result then.
    Wake(Option<Waker>),
    /// Nobody waits and the kernel is done: drop the operation.
    Retire(O),
    /// Pass it to the receive, which is [`Table::multishot`].
    Deliver,
    /// Pass it to the receive `M`, which has ended.
    DeliverLast(M),
    /// It belongs to an operation that has ended: ignore it.
    Stale,
}

/// The result of polling an operation.
#[derive(Debug)]
pub(crate) enum Polled<O> {
    Ready {
        operation: O,
        result: i32,
        /// Not needed. Drop it after the borrow of the driver.
        unused: Waker,
    },
    Pending {
        /// The waker that was replaced. Drop it after the borrow of the driver.
        replaced: Option<Waker>,
    },
}

/// What the driver must do for a future that was dropped.
#[derive(Debug)]
pub(crate) enum Orphan<O> {
    /// Cancel the operation, which the kernel still has. Drop the waker after the borrow.
    Cancel { waker: Option<Waker> },
    /// Drop the operation, which the kernel was done with.
    Retire(O),
}

impl<O, M> Table<O, M> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), vacant: None, in_flight: 0 }
    }

    /// How many requests wait for their final completion.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Takes ownership of `operation`. Submit it with the id that this returns.
    pub(crate) fn insert(&mut self, operation: O) -> Id {
        self.occupy(State::Waiting { operation, waker: None })
    }

    pub(crate) fn insert_multishot(&mut self, member: M) -> Id {
        self.occupy(State::Multishot { member })
    }

    /// The operation of an id that is in flight, or whose result was not taken.
    pub(crate) fn operation(&mut self, id: Id) -> &mut O {
        match &mut self.slot(id).state {
            State::Waiting { operation, .. }
            | State::Orphaned { operation }
            | State::Completed { operation, .. } => operation,
            _ => unreachable!("asked for the operation of a slot that holds none"),
        }
    }

    /// The receive of an id that is in flight.
    #[inline]
    pub(crate) fn multishot(&self, id: Id) -> Option<&M> {
        match self.state(id)? {
            State::Multishot { member } => Some(member),
            _ => None,
        }
    }

    /// Whether `id` waits for its final completion.
    pub(crate) fn is_in_flight(&self, id: Id) -> bool {
        matches!(
            self.state(id),
            Some(State::Waiting { .. } | State::Orphaned { .. } | State::Multishot { .. })
        )
    }

    /// Whether `id` is an operation in flight whose future waits.
    pub(crate) fn is_waiting(&self, id: Id) -> bool {
        matches!(self.state(id), Some(State::Waiting { .. }))
    }

    #[inline]
    fn state(&self, id: Id) -> Option<&State<O, M>> {
        let slot = self.slots.get(id.index as usize)?;
        (slot.generation == id.generation).then_some(&slot.state)
    }

    /// Records a completion.
    #[inline]
    pub(crate) fn complete(&mut self, id: Id, result: i32, finality: Finality) -> Completion<O, M> {
        let Some(slot) = self.slots.get(id.index as usize) else {
            return Completion::Stale;
        };
        if slot.generation != id.generation {
            return Completion::Stale;
        }
        match &slot.state {
            State::Multishot { .. } if finality == Finality::More => Completion::Deliver,
            State::Multishot { .. } => self.end_multishot(id),
            _ => self.complete_operation(id, result, finality),
        }
    }

    fn end_multishot(&mut self, id: Id) -> Completion<O, M> {
        self.in_flight -= 1;
        match self.free(id) {
            State::Multishot { member } => Completion::DeliverLast(member),
            _ => unreachable!("it is a multishot"),
        }
    }

    fn complete_operation(&mut self, id: Id, result: i32, finality: Finality) -> Completion<O, M> {
        let slot = self.slot(id);
        if finality == Finality::More {
            // A one-shot operation that announces another completion keeps its memory.
            return Completion::Wake(None);
        }
        match mem::replace(&mut slot.state, State::Vacant { next: None }) {
            State::Waiting { operation, waker } => {
                slot.state = State::Completed { operation, result };
                self.in_flight -= 1;
                Completion::Wake(waker)
            }
            State::Orphaned { operation } => {
                self.in_flight -= 1;
                self.free(id);
                Completion::Retire(operation)
            }
            state @ (State::Vacant { .. } | State::Completed { .. }) => {
                slot.state = state;
                Completion::Stale
            }
            State::Multishot { .. } => unreachable!("it is no operation"),
        }
    }

    /// Takes the result for a future, or stores its waker.
    pub(crate) fn poll(&mut self, id: Id, waker: Waker) -> Polled<O> {
        let slot = self.slot(id);
        if let State::Waiting { waker: waiting, .. } = &mut slot.state {
            return Polled::Pending { replaced: waiting.replace(waker) };
        }
        match mem::replace(&mut slot.state, State::Vacant { next: None }) {
            State::Completed { operation, result } => {
                self.free(id);
                Polled::Ready { operation, result, unused: waker }
            }
            _ => unreachable!("a future polled an operation that is not its own"),
        }
    }

    /// Records that the future of `id` was dropped.
    pub(crate) fn orphan(&mut self, id: Id) -> Orphan<O> {
        let slot = self.slot(id);
        match mem::replace(&mut slot.state, State::Vacant { next: None }) {
            State::Waiting { operation, waker } => {
                slot.state = State::Orphaned { operation };
                Orphan::Cancel { waker }
            }
            State::Completed { operation, .. } => {
                self.free(id);
                Orphan::Retire(operation)
            }
            _ => unreachable!("a future dropped an operation that is not its own"),
        }
    }

    /// All ids that wait for their final completion.
    pub(crate) fn ids_in_flight(&self) -> Vec<Id> {
        let in_flight = |slot: &Slot<O, M>| {
            matches!(
                slot.state,
                State::Waiting { .. } | State::Orphaned { .. } | State::Multishot { .. }
            )
        };
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| in_flight(slot))
            .map(|(index, slot)| Id { index, generation: slot.generation })
            .collect()
    }

    fn occupy(&mut self, state: State<O, M>) -> Id {
        self.in_flight += 1;
        let Some(index) = self.vacant else {
            let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 operations");
            self.slots.push(Slot { generation: 0, state });
            return Id { index, generation: 0 };
        };
        let slot = &mut self.slots[index as usize];
        let State::Vacant { next } = mem::replace(&mut slot.state, state) else {
            unreachable!("the list of vacant slots leads to vacant slots only");
        };
        self.vacant = next;
        Id { index, generation: slot.generation }
    }

    /// Frees the slot for the next operation and makes every copy of its id stale. Returns its
    /// state.
    fn free(&mut self, id: Id) -> State<O, M> {
        let next = self.vacant.replace(id.index);
        let slot = &mut self.slots[id.index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        mem::replace(&mut slot.state, State::Vacant { next })
    }

    fn slot(&mut self, id: Id) -> &mut Slot<O, M> {
        let slot = &mut self.slots[id.index as usize];
        assert_eq!(slot.generation, id.generation, "an operation outlived its id");
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;

    type TestTable = Table<u32, char>;

    fn ready(polled: Polled<u32>) -> (u32, i32) {
        match polled {
            Polled::Ready { operation, result, .. } => (operation, result),
            Polled::Pending { .. } => panic!("still pending"),
        }
    }

    /// Fails when a waker is dropped inside, where the driver is borrowed: its destructor may be
    /// third-party code.
    #[test]
    fn a_waker_that_is_not_needed_is_handed_back() {
        struct NoWake;

        impl Wake for NoWake {
            fn wake(self: Arc<Self>) {}
        }

        let mut table = TestTable::new();
        let id = table.insert(7);
        let wakers = [(); 3].map(|()| Arc::new(NoWake));
        let references = || wakers.each_ref().map(Arc::strong_count);
        let waker = |at: usize| Waker::from(Arc::clone(&wakers[at]));
        let first = table.poll(id, waker(0));
        assert!(matches!(first, Polled::Pending { replaced: None }));
        let replaced = table.poll(id, waker(1));
        assert_eq!(references(), [2, 2, 1], "{replaced:?}");
        drop(replaced);
        let woken = table.complete(id, 3, Finality::Final);
        let ready = table.poll(id, waker(2));
        assert_eq!(references(), [1, 2, 2], "{woken:?}, {ready:?}");
        drop((woken, ready));
        assert_eq!(references(), [1, 1, 1]);
    }

    #[test]
    fn a_completed_operation_hands_its_result_to_its_future() {
        let mut table = TestTable::new();
        let id = table.insert(7);
        assert!(matches!(
            table.poll(id, Waker::noop().clone()),
            Polled::Pending { replaced: None }
        ));
        assert!(matches!(table.complete(id, 3, Finality::Final), Completion::Wake(Some(_))));
        assert_eq!(table.in_flight(), 0);
        assert_eq!(ready(table.poll(id, Waker::noop().clone())), (7, 3));
    }

    #[test]
    fn an_orphaned_operation_keeps_its_memory_until_the_final_completion() {
        let mut table = TestTable::new();
        let id = table.insert(7);
        assert!(matches!(table.orphan(id), Orphan::Cancel { waker: None }));
        assert!(matches!(table.complete(id, 0, Finality::More), Completion::Wake(None)));
        assert_eq!(table.in_flight(), 1);
        assert!(matches!(table.complete(id, 0, Finality::Final), Completion::Retire(7)));
        assert_eq!(table.in_flight(), 0);
    }

    #[test]
    fn a_future_dropped_after_its_completion_retires_the_operation() {
        let mut table = TestTable::new();
        let id = table.insert(7);
        table.complete(id, 0, Finality::Final);
        assert!(matches!(table.orphan(id), Orphan::Retire(7)));
    }

    /// Fails when ids have no generation.
    #[test]
    fn a_late_completion_never_reaches_a_reused_slot() {
        let mut table = TestTable::new();
        let old = table.insert(1);
        table.complete(old, 0, Finality::Final);
        ready(table.poll(old, Waker::noop().clone()));
        let new = table.insert(2);
        assert_eq!(old.index, new.index, "the slot is used again");
        assert!(matches!(table.complete(old, -1, Finality::Final), Completion::Stale));
        assert!(matches!(
            table.poll(new, Waker::noop().clone()),
            Polled::Pending { replaced: None }
        ));
    }

    #[test]
    fn a_multishot_stays_until_its_last_completion() {
        let mut table = TestTable::new();
        let id = table.insert_multishot('m');
        assert!(matches!(table.complete(id, 1, Finality::More), Completion::Deliver));
        assert_eq!(table.multishot(id), Some(&'m'));
        assert!(matches!(table.complete(id, 1, Finality::More), Completion::Deliver));
        assert_eq!(table.ids_in_flight(), [id]);
        assert!(matches!(table.complete(id, -105, Finality::Final), Completion::DeliverLast('m')));
        assert!(table.ids_in_flight().is_empty());
        assert!(matches!(table.complete(id, 1, Finality::More), Completion::Stale));
    }

    #[test]
    fn user_data_carries_the_whole_id() {
        let id = Id { index: 0x1234_5678, generation: 0x9abc_def0 };
        assert_eq!(Id::from_user_data(id.to_user_data()), id);
    }

    /// Random operations, compared with a list of what should be in the table.
    #[test]
    fn random_operations_agree_with_a_plain_list() {
        let seeds = if cfg!(miri) { 5 } else { 500 };
        for seed in 1..=seeds {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut next = |bound: usize| random.usize(..bound);
            let mut table = TestTable::new();
            // (id, operation, dropped, completed)
            let mut model: Vec<(Id, u32, bool, bool)> = Vec::new();
            for step in 0..200u32 {
                match next(4) {
                    0 => model.push((table.insert(step), step, false, false)),
                    1 if !model.is_empty() => {
                        let at = next(model.len());
                        let (id, operation, dropped, completed) = &mut model[at];
                        if *completed {
                            continue;
                        }
                        match table.complete(*id, step as i32, Finality::Final) {
                            Completion::Wake(None) if !*dropped => *completed = true,
                            Completion::Retire(retired) if *dropped => {
                                assert_eq!(retired, *operation, "seed {seed}");
                                let stale = *id;
                                model.swap_remove(at);
                                let again = table.complete(stale, 0, Finality::Final);
                                assert!(matches!(again, Completion::Stale), "seed {seed}");
                            }
                            other => panic!("seed {seed}: {other:?}"),
                        }
                    }
                    2 if !model.is_empty() => {
                        let at = next(model.len());
                        let (id, operation, dropped, completed) = &mut model[at];
                        if *dropped {
                            continue;
                        }
                        match table.orphan(*id) {
                            Orphan::Cancel { waker: None } if !*completed => *dropped = true,
                            Orphan::Retire(retired) if *completed => {
                                assert_eq!(retired, *operation, "seed {seed}");
                                model.swap_remove(at);
                            }
                            other => panic!("seed {seed}: {other:?}"),
                        }
                    }
                    3 if !model.is_empty() => {
                        let at = next(model.len());
                        let (id, operation, dropped, completed) = model[at];
                        if completed && !dropped {
                            let polled = ready(table.poll(id, Waker::noop().clone()));
                            assert_eq!(polled.0, operation, "seed {seed}");
                            model.swap_remove(at);
                        }
                    }
                    _ => {}
                }
                let in_flight = model.iter().filter(|entry| !entry.3).count();
                assert_eq!(table.in_flight(), in_flight, "seed {seed}");
                assert_eq!(table.ids_in_flight().len(), in_flight, "seed {seed}");
            }
        }
    }
}
