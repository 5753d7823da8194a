//! Waiting for what is on its way: datagrams whose `send` has returned, and which another CPU has not
//! queued on their socket yet.
//!
//! There are two places where one can be. In the *backlog* of a CPU, until that takes it up; and *in
//! hand*, while a CPU carries it from there to its socket. The first is looked at, and what was in
//! it is waited for. The second is a critical section of RCU, which a grace period waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use super::backlog::{Backlogs, Processed};
use super::membarrier;
use super::report::Quiesced;
use crate::clock;

/// Waits until `deadline` for all that is on its way; does something else `meanwhile`, over and over.
pub(super) fn wait_for_all(deadline: Instant, meanwhile: &mut dyn FnMut()) -> Quiesced {
    let backlogs = wait_for_backlogs(deadline, meanwhile);
    backlogs.worse(wait_for_what_is_in_hand(deadline, meanwhile))
}

fn wait_for_backlogs(deadline: Instant, meanwhile: &mut dyn FnMut()) -> Quiesced {
    let Ok(mut backlogs) = Backlogs::now() else { return Quiesced::BacklogUnknown };
    loop {
        match backlogs.look() {
            Ok(Processed::All) => return Quiesced::Waited,
            Ok(Processed::NotAll) if clock::now() < deadline => meanwhile(),
            Ok(Processed::NotAll) => return Quiesced::DeadlinePassed,
            Err(_) => return Quiesced::BacklogUnknown,
        }
    }
}

/// Waits until every CPU has queued, or dropped, what it had in hand. After the seal that is all that
/// can still come: what lies in a backlog meets the filter.
pub(super) fn wait_for_what_is_in_hand(deadline: Instant, meanwhile: &mut dyn FnMut()) -> Quiesced {
    let done = Arc::new(AtomicBool::new(false));
    let helper = thread::Builder::new().spawn({
        let done = Arc::clone(&done);
        move || {
            let result = membarrier();
            done.store(true, Ordering::Release);
            result
        }
    });
    let waited = match helper {
        Ok(helper) => {
            while !done.load(Ordering::Acquire) {
                if clock::now() >= deadline {
                    // The thread ends by itself.
                    return Quiesced::DeadlinePassed;
                }
                meanwhile();
            }
            helper.join().expect("it makes one system call")
        }
        // Without a thread for it, nothing else is done meanwhile.
        Err(_) => membarrier(),
    };
    match waited {
        Ok(()) => Quiesced::Waited,
        Err(_) => Quiesced::NoGracePeriod,
    }
}
