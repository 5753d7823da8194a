//! [`Version`]: which Linux the kernel in memory is like.

use std::fs;
use std::io;

/// A version of Linux, as far as versions differ in what the model shows (docs/kernel.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// The oldest whose io_uring is used.
    pub const OLDEST: Self = Self { major: 6, minor: 1 };

    /// The oldest that is recommended. Newer ones are like it.
    pub const RECOMMENDED: Self = Self { major: 6, minor: 12 };

    /// The version of the kernel that is running.
    ///
    /// # Errors
    ///
    /// There is no /proc, or what it says is no version.
    pub fn running() -> io::Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Self::of_release(&release)
            .ok_or_else(|| io::Error::other(format!("{release:?} is no version of Linux")))
    }

    /// `6.1.0-50-cloud-amd64` is 6.1.
    fn of_release(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some(Self { major: next()?, minor: next()? })
    }

    /// One of the versions that differ: every fourth seed is on the oldest.
    pub(crate) fn of_seed(seed: u64) -> Self {
        if seed.is_multiple_of(4) { Self::OLDEST } else { Self::RECOMMENDED }
    }

    /// How many datagrams one visit delivers to a receive, if there is a limit (K-RECV-3): one, and
    /// 32 more tries.
    pub(crate) fn deliveries(self) -> Option<usize> {
        (self >= Self::RECOMMENDED).then_some(33)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_in_the_name_of_a_release() {
        assert_eq!(Version::of_release("6.1.0-50-cloud-amd64\n"), Some(Version::OLDEST));
        assert_eq!(Version::of_release("6.12.95+deb12"), Some(Version::RECOMMENDED));
        assert!(Version::of_release("7.3-rc1").unwrap() > Version::RECOMMENDED);
        assert_eq!(Version::of_release("unknown"), None);
    }
}
