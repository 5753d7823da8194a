//! What a process holds: descriptors, and the mappings of rings and pools.

use std::fs;

use crate::child::{Beside, start, test_of};
use crate::descriptor;

/// Runs `body` in a separate process. Fails unless that process holds afterwards what it held
/// before.
pub fn leaves_nothing<F: FnOnce()>(body: F) {
    let compare = || {
        let before = Holdings::now();
        body();
        assert_eq!(Holdings::now(), before);
    };
    start(test_of::<F>(), Beside::Others, |_| {}, compare).expect("the test binary can be started");
}

#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    rings_and_pools: usize,
}

impl Holdings {
    fn now() -> Self {
        Self { descriptors: descriptor::count(), rings_and_pools: mappings_not_inherited() }
    }
}

/// Mappings that forked children do not get ("dc" in proc(5)), which are only rings and pools. The
/// number of all mappings also depends on the allocator and the threads of the test runner.
fn mappings_not_inherited() -> usize {
    let mappings = fs::read_to_string("/proc/self/smaps").expect("/proc is mounted");
    let flags = mappings.lines().filter_map(|line| line.strip_prefix("VmFlags:"));
    flags.filter(|flags| flags.split_whitespace().any(|flag| flag == "dc")).count()
}
