//! The multishot receives of a driver: whose they are, how far each has come, and which wait for
//! buffers.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use slab::Slab;

use super::direct::template;
use super::message::Batch;
use super::sink::{Armed, Sink, Verdict, Wakes};
use super::table::{Finality, Id};

/// Names one multishot receive for as long as its socket exists, through all its re-armings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MultishotKey(usize);

pub(super) struct Multishots {
    members: Slab<Multishot>,
    /// Those that ended for want of buffers, longest wait first. May name some that were
    /// cancelled, or are gone, meanwhile.
    starved: VecDeque<MultishotKey>,
}

pub(super) struct Multishot {
    pub(super) sink: Rc<dyn Sink>,
    /// What the kernel is shown; on the heap because it reads it at submission, which may be
    /// later.
    pub(super) template: Box<libc::msghdr>,
    pub(super) phase: Phase,
    /// Whether the sink stays when the receive has ended.
    pub(super) membership: Membership,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    /// Waits for buffers.
    Starved,
    InFlight(Id),
    /// A cancel was asked for; the final completion has not been collected.
    Cancelling(Id),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    Member,
    /// To be removed at the final completion.
    Leaving,
}

impl Multishots {
    pub(super) fn new() -> Self {
        Self { members: Slab::new(), starved: VecDeque::new() }
    }

    pub(super) fn insert(&mut self, sink: Rc<dyn Sink>) -> MultishotKey {
        let template = Box::new(template(sink.layout()));
        let phase = Phase::Idle;
        let membership = Membership::Member;
        MultishotKey(self.members.insert(Multishot { sink, template, phase, membership }))
    }

    pub(super) fn get(&self, key: MultishotKey) -> Option<&Multishot> {
        self.members.get(key.0)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: MultishotKey) -> Option<&mut Multishot> {
        self.members.get_mut(key.0)
    }

    pub(super) fn remove(&mut self, key: MultishotKey) -> Option<Rc<dyn Sink>> {
        self.members.try_remove(key.0).map(|multishot| multishot.sink)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Multishot> {
        self.members.iter_mut().map(|(_, multishot)| multishot)
    }

    /// Removes those of which nothing is in flight.
    pub(super) fn drain_idle(&mut self) -> Vec<Multishot> {
        let idle = |member: &Multishot| matches!(member.phase, Phase::Idle | Phase::Starved);
        let keys: Vec<usize> =
            self.members.iter().filter(|(_, member)| idle(member)).map(|(key, _)| key).collect();
        keys.into_iter().map(|key| self.members.remove(key)).collect()
    }

    /// Puts an idle receive at the end of those that wait for buffers.
    pub(super) fn starve(&mut self, key: MultishotKey) {
        let Some(multishot) = self.members.get_mut(key.0) else { return };
        if multishot.phase == Phase::Idle {
            multishot.phase = Phase::Starved;
            self.starved.push_back(key);
        }
    }

    /// Takes the receive that has waited longest for buffers.
    pub(super) fn next_starved(&mut self) -> Option<MultishotKey> {
        while let Some(key) = self.starved.pop_front() {
            if self.get(key).is_some_and(|multishot| multishot.phase == Phase::Starved) {
                return Some(key);
            }
        }
        None
    }

    /// Whether some may wait for buffers.
    pub(super) fn has_starved(&self) -> bool {
        !self.starved.is_empty()
    }
}

impl Multishot {
    /// Hands messages to the sink.
    pub(super) fn deliver(
        &mut self,
        batch: Batch<'_>,
        finality: Finality,
        wakes: &mut Wakes,
    ) -> Verdict {
        let armed = self.armed(finality);
        self.sink.receive(batch, armed, wakes)
    }

    /// Hands a completion without a message to the sink.
    pub(super) fn end(&mut self, result: i32, finality: Finality, wakes: &mut Wakes) -> Verdict {
        let armed = self.armed(finality);
        let error = (result < 0).then(|| io::Error::from_raw_os_error(-result));
        self.sink.end(error, armed, wakes)
    }

    fn armed(&mut self, finality: Finality) -> Armed {
        match finality {
            Finality::More => Armed::Still,
            Finality::Final => {
                self.phase = Phase::Idle;
                Armed::NoMore
            }
        }
    }
}
