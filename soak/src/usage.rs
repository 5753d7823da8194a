//! [`Usage`]: what the process holds.

use std::fmt;
use std::fs;

/// How much resident memory an allocator may keep. A debug build settles at some 14 MiB, after 5
/// MiB at first. One leaked byte for each datagram exceeds this within a minute.
const RESIDENT_SLACK_KIB: u64 = 16_384;
const MAPPING_SLACK: u64 = 16;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    descriptors: usize,
    mappings: u64,
    resident_kib: u64,
    locked_kib: u64,
    threads: u64,
}

impl Usage {
    pub(super) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_end_matches("kB").trim().parse().ok()
        };
        Self {
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            mappings: fs::read_to_string("/proc/self/maps")
                .map_or(0, |maps| maps.lines().count() as u64),
            resident_kib: field("VmRSS:").unwrap_or(0),
            locked_kib: field("VmLck:").unwrap_or(0),
            threads: field("Threads:").unwrap_or(0),
        }
    }

    /// What has grown between the rests, if anything. What an allocator keeps goes up and down. So
    /// memory has grown if the minimum of the last third is above the maximum of the first.
    pub(super) fn growth(rests: &[Self]) -> Option<String> {
        let (first, last) = (rests.first()?, rests.last()?);
        let third = rests.len().div_ceil(3);
        let (early, late) = (&rests[..third], &rests[rests.len() - third..]);
        let most = |of: fn(&Self) -> u64| early.iter().map(of).max().unwrap_or(0);
        let least = |of: fn(&Self) -> u64| late.iter().map(of).min().unwrap_or(0);
        let mappings: fn(&Self) -> u64 = |usage| usage.mappings;
        let resident: fn(&Self) -> u64 = |usage| usage.resident_kib;
        let grown = last.descriptors != first.descriptors
            || last.locked_kib != first.locked_kib
            || least(mappings) > most(mappings) + MAPPING_SLACK
            || least(resident) > most(resident) + RESIDENT_SLACK_KIB;
        grown.then(|| {
            format!("the process holds {last} at the last rest, and held {first} at the first")
        })
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:4} descriptors, {:6} KiB resident, {} KiB locked, {:3} mappings, {} threads",
            self.descriptors, self.resident_kib, self.locked_kib, self.mappings, self.threads
        )
    }
}
