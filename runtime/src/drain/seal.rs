//! Steps 1 to 4 of the drain: seal, cancel, reap and the first read. Awaits nothing, runs no user
//! code.

use std::ops::AddAssign;
use std::rc::Rc;
use std::time::Instant;

use super::deliveries::{wait_for_all, wait_for_what_is_in_hand};
use super::report::Quiesced;
use super::sockets::{Drainable, Pass, ReadProgress};
use crate::handle::LocalHandle;
use crate::limits::DRAIN_READ_BATCH;
use crate::wakes::Wakes;

/// What steps 1 to 4 could not do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sealed {
    /// Sockets that the kernel refused to seal.
    pub(crate) unsealed: usize,
    /// Sockets whose receive the kernel did not end in time. They were not read: what is received
    /// late would come after what was read.
    pub(crate) not_reaped: usize,
    /// Whether senders were waited for.
    pub(crate) quiesced: Quiesced,
}

impl AddAssign for Sealed {
    fn add_assign(&mut self, other: Self) {
        self.unsealed += other.unsealed;
        self.not_reaped += other.not_reaped;
        self.quiesced = self.quiesced.worse(other.quiesced);
    }
}

/// Steps 1 to 4 for these sockets. With `quiesce`, also waits for senders until then.
///
/// To wait for senders, it ends the receives first, so that the sockets can be read meanwhile
/// without depending on the pool. The seal then finds only what arrived last.
pub(crate) fn seal_sockets(
    handle: &LocalHandle,
    sockets: &[Rc<dyn Drainable>],
    quiesce: Option<Instant>,
) -> Sealed {
    handle.assert_own();
    let mut wakes = Wakes::default();
    let (unsealed, quiesced);
    if let Some(deadline) = quiesce {
        // What is being delivered to them is waited for, too.
        leave_shares(sockets);
        cancel_and_reap(handle, sockets, &mut wakes);
        let before = wait_for_all(deadline, &mut || read_early(sockets, &mut wakes));
        unsealed = seal(sockets);
        let after = wait_for_what_is_in_hand(deadline, &mut || read_early(sockets, &mut wakes));
        quiesced = before.worse(after);
    } else {
        unsealed = seal(sockets);
        cancel_and_reap(handle, sockets, &mut wakes);
        quiesced = Quiesced::NotAsked;
    }
    read_first(sockets, &mut wakes);
    handle.wake_from_outside(wakes);
    let not_reaped = sockets.iter().filter(|socket| !socket.is_reaped()).count();
    Sealed { unsealed, not_reaped, quiesced }
}

/// Reads while senders are waited for, so that no receive buffer overflows. There is no pause: a
/// sender might use this CPU instead.
fn read_early(sockets: &[Rc<dyn Drainable>], wakes: &mut Wakes) {
    for socket in sockets {
        socket.read(DRAIN_READ_BATCH, Pass::Early, wakes);
    }
}

/// Step 1. Returns how many sockets the kernel refused to seal.
///
/// Before the first is sealed, all of them leave their groups that share an address. If all members
/// of a group are sealed, datagrams that arrive meanwhile are queued on one that is read.
fn seal(sockets: &[Rc<dyn Drainable>]) -> usize {
    leave_shares(sockets);
    sockets.iter().filter(|socket| socket.seal().is_err()).count()
}

fn leave_shares(sockets: &[Rc<dyn Drainable>]) {
    for socket in sockets {
        socket.leave_share();
    }
}

/// Steps 2 and 3. No datagram is lost: a cancel takes none, and each that was received has its own
/// completion before the final one (docs/kernel.md, K-RECV-4).
fn cancel_and_reap(handle: &LocalHandle, sockets: &[Rc<dyn Drainable>], wakes: &mut Wakes) {
    for socket in sockets {
        socket.cancel();
    }
    handle.collect_until(|| sockets.iter().all(|socket| socket.is_reaped()), wakes);
}

/// Step 4. Continues after errors, so that a socket that cannot be read at all is detected.
fn read_first(sockets: &[Rc<dyn Drainable>], wakes: &mut Wakes) {
    for socket in sockets {
        let before = socket.undelivered();
        while socket.read(DRAIN_READ_BATCH, Pass::Last, wakes) == ReadProgress::More
            && socket.undelivered() == before
        {}
    }
}
