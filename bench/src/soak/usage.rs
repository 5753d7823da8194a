//! [`Usage`]: what the process holds.

use std::fmt;
use std::fs;

/// What an allocator may keep for later, more or less from rest to rest.
const RESIDENT_SLACK_KIB: u64 = 4_096;
const MAPPING_SLACK: usize = 16;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    descriptors: usize,
    mappings: usize,
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
            mappings: fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count()),
            resident_kib: field("VmRSS:").unwrap_or(0),
            locked_kib: field("VmLck:").unwrap_or(0),
            threads: field("Threads:").unwrap_or(0),
        }
    }

    /// What has grown since `first`, if anything has.
    pub(super) fn grown_from(&self, first: &Self) -> Option<String> {
        let grown = self.descriptors != first.descriptors
            || self.locked_kib != first.locked_kib
            || self.mappings > first.mappings + MAPPING_SLACK
            || self.resident_kib > first.resident_kib + RESIDENT_SLACK_KIB;
        grown.then(|| format!("at rest the process holds {self}, and at first {first}"))
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
