//! Which CPU does what.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::fail;

/// Where contestants run.
pub(crate) const RECEIVER_CPU: usize = 0;
/// Where the load is made.
pub(crate) const GENERATOR_CPU: usize = 1;

/// Pins the calling thread, and what it forks or spawns.
pub(crate) fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    let pinned = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        fail(&format!("cannot run on CPU {cpu}: {error}; the comparison needs two CPUs"));
    }
}

/// Lets the calling thread, and what it spawns, run on both: for contestants with threads.
#[cfg_attr(not(feature = "peers"), expect(dead_code, reason = "only peers have threads"))]
pub(crate) fn unpin() {
    let mut set = CpuSet::new();
    let unpinned = set
        .set(RECEIVER_CPU)
        .and_then(|()| set.set(GENERATOR_CPU))
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = unpinned {
        fail(&format!("cannot run on two CPUs: {error}"));
    }
}
