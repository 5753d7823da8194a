//! Canaries: in debug builds, a pattern after each buffer of a pool, to detect writes past its end.
//!
//! Nobody may write there, neither the kernel, which knows the length of the buffer, nor the
//! program. The pattern is checked when the buffer returns and when the pool is freed. Guard pages
//! protect what is beyond the whole block: see `mapping.rs`. In release builds there is nothing
//! between the buffers.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::process;
use std::thread;

/// The pattern after each buffer. It is a cache line long, so that buffers still start at one. It
/// is text, so that it is found in a dump, and so that few bytes are equal.
const PATTERN: &[u8; 64] = b"behind a buffer of a pool: whatever writes here writes too far..";

/// Bytes after each buffer, in debug builds.
pub(super) const GAP: usize = if cfg!(debug_assertions) { PATTERN.len() } else { 0 };

/// Fills the gap after a buffer.
pub(super) fn plant(gap: &mut [u8; GAP]) {
    gap.copy_from_slice(&PATTERN[..GAP]);
}

/// Returns the first and the last damaged byte of the gap.
fn damage(gap: &[u8; GAP]) -> Option<RangeInclusive<usize>> {
    if gap == &PATTERN[..GAP] {
        return None;
    }
    let is_damaged = |(byte, planted): (&u8, &u8)| byte != planted;
    let first = gap.iter().zip(PATTERN).position(is_damaged)?;
    let last = gap.iter().zip(PATTERN).rposition(is_damaged)?;
    Some(first..=last)
}

/// Aborts the process if `gap`, which follows the buffer `id`, was written to.
///
/// It does not panic: a task that drops a datagram would catch that, and its result might be
/// ignored. Somebody wrote to memory that was not theirs, so the other memory cannot be trusted
/// either. The message goes to stderr directly: a test would capture a print, and the abort would
/// lose it.
pub(super) fn check(id: u16, gap: &[u8; GAP]) {
    let Some(damaged) = damage(gap) else { return };
    let (first, last) = (damaged.start(), damaged.end());
    let thread = thread::current();
    let _ = writeln!(
        io::stderr(),
        "in thread {:?}: the memory behind buffer {id} of a pool was written to, from byte \
         {first} to byte {last} past its end",
        thread.name().unwrap_or("without a name"),
    );
    process::abort()
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn a_byte_of_the_gap_that_has_changed_is_found() {
        let mut whole = [0; GAP];
        plant(&mut whole);
        assert_eq!(damage(&whole), None);
        for at in 0..GAP {
            let mut gap = whole;
            gap[at] ^= 1;
            assert_eq!(damage(&gap), Some(at..=at));
            gap[GAP - 1] = !whole[GAP - 1];
            assert_eq!(damage(&gap), Some(at..=GAP - 1));
        }
        for filled_with in 0..=u8::MAX {
            assert!(damage(&[filled_with; GAP]).is_some());
        }
    }
}
