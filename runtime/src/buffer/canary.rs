//! Canaries: in debug builds, a pattern behind each buffer of a pool, to tell of a write past its
//! end.
//!
//! Nobody may write there: neither the kernel, which is told the length of the buffer alone, nor
//! whoever holds it. Looked at when the buffer comes back and when the pool goes. What lies beyond
//! the whole block of buffers has guards, see `mapping.rs`. In release builds there is nothing
//! between the buffers.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::process;
use std::thread;

/// What lies behind each buffer. As long as a cache line, so that buffers still start at one; text,
/// so that it is found in a dump, and few of its bytes are the same.
const PATTERN: &[u8; 64] = b"behind a buffer of a pool: whatever writes here writes too far..";

/// Bytes behind each buffer, in debug builds.
pub(super) const GAP: usize = if cfg!(debug_assertions) { PATTERN.len() } else { 0 };

/// Fills the gap behind a buffer.
pub(super) fn plant(gap: &mut [u8; GAP]) {
    gap.copy_from_slice(&PATTERN[..GAP]);
}

/// The first and the last byte of the gap that are not as they were planted.
fn damage(gap: &[u8; GAP]) -> Option<RangeInclusive<usize>> {
    if gap == &PATTERN[..GAP] {
        return None;
    }
    let is_damaged = |(byte, planted): (&u8, &u8)| byte != planted;
    let first = gap.iter().zip(PATTERN).position(is_damaged)?;
    let last = gap.iter().zip(PATTERN).rposition(is_damaged)?;
    Some(first..=last)
}

/// Ends the process if `gap`, which lies behind the buffer `id`, was written to.
///
/// No panic: a task that drops a datagram would catch it, and nobody need look at how that task
/// ended. Memory that is not ours to write was written, so nothing can be said of the rest either.
/// Nor is the message one that a test captures, and an abort then loses.
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
