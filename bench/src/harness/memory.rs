//! Resident memory of this process.

use std::fs;

use super::fail;

/// `VmRSS` of proc(5), in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status")
        .unwrap_or_else(|error| fail(&format!("/proc/self/status: {error}")));
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or_else(|| fail("/proc/self/status has no VmRSS")) * 1024
}
