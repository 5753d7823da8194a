//! The datagrams that a program holds, and with them buffers of the pool. Nothing may write to
//! them.

use ebbtide_net::Datagram;

use crate::address::Peer;
use crate::coverage::Event;
use crate::program::Program;

/// Programs that hold more datagrams of a hundred than this drop at most three at a time.
pub(crate) const MOST_KEPT: usize = 50;

/// A datagram that is held, and its expected payload.
pub(crate) struct Held {
    index: usize,
    datagram: Box<dyn AsRef<[u8]>>,
    expected: Vec<u8>,
}

impl Program {
    /// A task received a datagram. It may hold it.
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

    /// Drops some of the held datagrams.
    pub(crate) fn release(&self) {
        let kept = self.held.borrow().len();
        // If a program holds nearly everything, the dropped ones are all that the pool has.
        let most = if self.size.keeping > MOST_KEPT { kept.min(3) } else { kept };
        for left in 0..self.below(most + 1) {
            let at = self.below(kept - left);
            let held = self.held.borrow_mut().swap_remove(at);
            self.check_held(&held);
        }
    }

    /// Checks that nothing has written to a held datagram.
    fn check_held(&self, held: &Held) {
        self.world.borrow_mut().held -= 1;
        if (*held.datagram).as_ref() != held.expected {
            let mut world = self.world.borrow_mut();
            world.violate(format!("socket {}: a datagram changed while it was held", held.index));
        }
    }

    /// Drops all held datagrams, after the end.
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
