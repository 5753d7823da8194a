//! The datagrams that a program keeps, and with them buffers of the pool; nobody may write to them.

use ebbtide_net::Datagram;

use crate::address::Peer;
use crate::coverage::Event;
use crate::program::Program;

/// Of a hundred datagrams, how many a program keeps that lets go of any number at once.
pub(crate) const MOST_KEPT: usize = 50;

/// A datagram that is kept, and what must be in it.
pub(crate) struct Held {
    index: usize,
    datagram: Box<dyn AsRef<[u8]>>,
    expected: Vec<u8>,
}

impl Program {
    /// A task was handed a datagram, and may want to keep it.
    pub(crate) fn keep<A: Peer>(&self, index: usize, datagram: Datagram<A>) {
        if !self.chance(self.size.keeping) {
            return;
        }
        self.note(Event::Held);
        {
            let mut world = self.world.borrow_mut();
            world.held += 1;
            if world.sockets[index].ledger.is_within_train() {
                world.note(Event::TrainBegun);
            }
        }
        let expected = datagram.to_vec();
        self.held.borrow_mut().push(Held { index, datagram: Box::new(datagram), expected });
    }

    /// Lets go of some of what is kept.
    pub(crate) fn release(&self) {
        let kept = self.held.borrow().len();
        // Of a program that keeps nearly all, those few are what the pool has.
        let most = if self.size.keeping > MOST_KEPT { kept.min(3) } else { kept };
        for left in 0..self.below(most + 1) {
            let at = self.below(kept - left);
            let held = self.held.borrow_mut().swap_remove(at);
            self.check_held(&held);
        }
    }

    /// Nobody has written to what is kept.
    fn check_held(&self, held: &Held) {
        self.world.borrow_mut().held -= 1;
        if (*held.datagram).as_ref() != held.expected {
            let mut world = self.world.borrow_mut();
            world.violate(format!("socket {}: a datagram changed while it was kept", held.index));
        }
    }

    /// Lets go of all that is kept, after the end.
    pub(crate) fn release_all(&self) {
        let held = self.held.take();
        if !held.is_empty() {
            self.note(Event::HeldPastEnd);
        }
        for held in &held {
            self.check_held(held);
        }
    }
}
