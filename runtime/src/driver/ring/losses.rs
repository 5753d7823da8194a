//! [`Losses`]: counts each completion that the kernel has lost once. Pure.

/// How many completions were lost.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// The kernel's counter at the last look.
    seen: u32,
    count: u64,
    /// True exactly while the counter has shown a loss that a sleeping enter will report, too.
    is_owed: bool,
}

/// Whether an enter has failed with `-EBADR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reported {
    Yes,
    No,
}

/// What an enter has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Completions were lost that were not counted before.
    New,
    None,
}

impl Losses {
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Records the kernel's counter after an enter. The counter shows a loss first: an enter that
    /// does not sleep never fails because of one.
    #[inline]
    pub(super) fn note(&mut self, counter: u32, reported: Reported) -> Loss {
        let new = counter.wrapping_sub(self.seen);
        if new == 0 && reported == Reported::No {
            return Loss::None;
        }
        self.seen = counter;
        let was_owed = std::mem::replace(&mut self.is_owed, reported == Reported::No);
        if new == 0 && was_owed {
            return Loss::None;
        }
        self.count += u64::from(new.max(1));
        Loss::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_is_counted_once() {
        let mut losses = Losses::default();
        assert_eq!(losses.note(0, Reported::No), Loss::None);
        // The counter shows it first, an enter reports it later.
        assert_eq!(losses.note(2, Reported::No), Loss::New);
        assert_eq!(losses.note(2, Reported::No), Loss::None);
        assert_eq!(losses.note(2, Reported::Yes), Loss::None);
        // Counted and reported at once.
        assert_eq!(losses.note(3, Reported::Yes), Loss::New);
        assert_eq!(losses.note(3, Reported::No), Loss::None);
        // By a kernel that does not count.
        assert_eq!(losses.note(3, Reported::Yes), Loss::New);
        assert_eq!(losses.count(), 4);
    }
}
