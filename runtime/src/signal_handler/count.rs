//! [`Count`]: a number that belongs to one process, shared by its threads and its signal handlers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::process::Process;

/// A number that only grows. A forked child starts at 0: the upper half says which process it
/// belongs to.
#[derive(Debug)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(super) fn get(&self, process: Process) -> u32 {
        number_of(self.0.load(Ordering::SeqCst), process)
    }

    /// Adds one. Async-signal-safe.
    pub(super) fn add_one(&self, process: Process) {
        self.update(process, |number| number.wrapping_add(1));
    }

    /// Raises it to `number`, unless it is larger.
    pub(super) fn raise_to(&self, number: u32, process: Process) {
        self.update(process, |known| if is_later(number, known) { number } else { known });
    }

    fn update(&self, process: Process, change: impl Fn(u32) -> u32) {
        let mut word = self.0.load(Ordering::SeqCst);
        loop {
            let number = change(number_of(word, process));
            let new = u64::from(process.id()) << 32 | u64::from(number);
            match self.0.compare_exchange_weak(word, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(changed) => word = changed,
            }
        }
    }
}

fn number_of(word: u64, process: Process) -> u32 {
    if word >> 32 == u64::from(process.id()) { (word & 0xffff_ffff) as u32 } else { 0 }
}

/// Whether `number` comes after `other`. They wrap.
pub(super) fn is_later(number: u32, other: u32) -> bool {
    number.wrapping_sub(other).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_never_goes_back() {
        let (count, process) = (Count::new(), Process::current());
        count.add_one(process);
        count.add_one(process);
        count.raise_to(1, process);
        assert_eq!(count.get(process), 2);
        count.raise_to(5, process);
        assert_eq!(count.get(process), 5);
    }

    #[test]
    fn a_count_wraps() {
        assert!(is_later(0, u32::MAX) && !is_later(u32::MAX, 0) && !is_later(7, 7));
    }
}
