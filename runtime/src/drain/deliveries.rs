//! Waits for datagrams whose `send` has returned, but which another CPU has not queued on their
//! socket yet.
//!
//! Such a datagram is in one of two places. It may be in the *backlog* of a CPU, until the CPU
//! processes it: the backlogs are read, and what was in them is waited for. Or it is *in hand*,
//! while a CPU delivers it to its socket: that is a critical section of RCU, for which a grace
//! period waits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use rustix::thread::MembarrierCommand;

use super::backlog::{Backlogs, Processed};
use super::report::Quiesced;
use crate::clock;

/// Waits until `deadline` for all such datagrams. Calls `meanwhile` over and over.
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

/// Waits until every CPU has queued or dropped what it had in hand. After the seal nothing else can
/// arrive: the filter drops what is in a backlog.
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
        // No thread could be started for it: it blocks this one.
        Err(_) => membarrier(),
    };
    match waited {
        Ok(()) => Quiesced::Waited,
        Err(_) => Quiesced::NoGracePeriod,
    }
}

/// Waits until every CPU has passed through the scheduler, which it does not do while it has a
/// packet in hand: membarrier(2), Linux 4.3. What is in its backlog is not in hand
/// (docs/kernel.md, K-CPU-2).
///
/// # Errors
///
/// `EINVAL` on kernels with `nohz_full`, `ENOSYS` if it was not built in.
pub(crate) fn membarrier() -> io::Result<()> {
    Ok(rustix::thread::membarrier(MembarrierCommand::Global)?)
}
