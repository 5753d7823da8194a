//! A block of anonymous memory, mapped directly.
//!
//! It does not come from the allocator, so that it is unmapped when it is freed: a late write by
//! the kernel is then an error and no silent corruption. Forked children do not get memory that the
//! kernel writes (`MADV_DONTFORK`; docs/kernel.md, K-FORK-2). They would keep it alive after the
//! runtime has ended.

// UNSAFETY: mmap, madvise and munmap have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use crate::process::Process;

/// Bytes before and after a mapping that nobody may access. A write past its end is an error there,
/// by the kernel (`EFAULT`) as by this process. Only in debug builds, because it takes two more
/// mappings, of which a process has 65 530. It covers a page if pages are at most 64 KiB.
const GUARD: usize = if cfg!(all(debug_assertions, not(miri))) { 65_536 } else { 0 };

/// Zeroed, page-aligned memory, which is unmapped on drop.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// The process that made it.
    process: Process,
}

/// What a forked child gets of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InChild {
    /// Nothing. Accessing it there is an error.
    Absent,
    /// A copy.
    Copied,
}

const ACCESS: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

impl Mapping {
    pub(crate) fn new(len: usize, in_child: InChild) -> io::Result<Self> {
        let access = if GUARD != 0 { libc::PROT_NONE } else { ACCESS };
        // SAFETY: an anonymous private mapping at an address that the kernel chooses. It does not
        // affect existing memory.
        let whole = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len + 2 * GUARD,
                access,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if whole == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: inside the mapping just made.
        let start = unsafe { whole.cast::<u8>().add(GUARD) };
        let start = NonNull::new(start).expect("mmap never maps page zero");
        let mapping = Self { start, len, process: Process::current() };
        if GUARD != 0 {
            // SAFETY: the range is between the guards of the mapping just made.
            let result = unsafe { libc::mprotect(start.as_ptr().cast(), len, ACCESS) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Miri has neither madvise nor fork.
        if !cfg!(miri) && in_child == InChild::Absent {
            // SAFETY: the range is the mapping just made.
            let result = unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTFORK) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(mapping)
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.process != Process::current() {
            // In a forked child, the mapping may be absent, with other memory in its place.
            return;
        }
        // SAFETY: the guard before it belongs to the same mapping.
        let whole = unsafe { self.start.as_ptr().sub(GUARD) };
        // SAFETY: the range was mapped by `new` and is unmapped once. The kernel no longer has any
        // of it (see `Pool`).
        let result = unsafe { libc::munmap(whole.cast(), self.len + 2 * GUARD) };
        debug_assert_eq!(result, 0, "munmap of a mapping of our own cannot fail");
    }
}

/// A mapping that is not shared with anybody. Pages that were never written take no memory.
pub(crate) struct Pages {
    mapping: Mapping,
}

impl Pages {
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        Ok(Self { mapping: Mapping::new(len, InChild::Absent)? })
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped as long as `self` lives, zeroed when mapped, and not shared.
        unsafe { slice::from_raw_parts(self.mapping.start().as_ptr(), self.mapping.len()) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only access to it.
        unsafe { slice::from_raw_parts_mut(self.mapping.start().as_ptr(), self.mapping.len()) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    /// Fails without guards, unless memory next to the mapping happens to be inaccessible. The
    /// kernel is asked to read, which fails where an access by the program would kill it.
    #[test]
    #[cfg_attr(any(miri, not(debug_assertions)), ignore = "there are guards in debug builds only")]
    fn what_lies_before_and_after_the_memory_cannot_be_touched() {
        let len = 3 * 65_536;
        let mapping = Mapping::new(len, InChild::Absent).unwrap();
        let (_reader, writer) = io::pipe().unwrap();
        let touch = |at: *const u8| {
            // SAFETY: takes a byte from an address that the kernel may refuse to read.
            let written = unsafe { libc::write(writer.as_raw_fd(), at.cast(), 1) };
            if written == 1 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error()) }
        };
        let start = mapping.start().as_ptr().cast_const();
        for (at, expected) in [
            (start.wrapping_sub(GUARD), Err(Some(libc::EFAULT))),
            (start.wrapping_sub(1), Err(Some(libc::EFAULT))),
            (start, Ok(())),
            (start.wrapping_add(len - 1), Ok(())),
            (start.wrapping_add(len), Err(Some(libc::EFAULT))),
            (start.wrapping_add(len + GUARD - 1), Err(Some(libc::EFAULT))),
        ] {
            assert_eq!(touch(at), expected);
        }
    }

    /// Fails when a forked child gets the memory: its flags then lack "dc" (do not copy).
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no /proc")]
    fn a_forked_child_does_not_get_the_memory() {
        let mapping = Mapping::new(1 << 20, InChild::Absent).unwrap();
        let start = mapping.start().as_ptr().addr();
        // Each range of addresses is followed by its properties.
        let holds_it = |line: &&str| {
            let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16).ok();
            range.is_some_and(|(from, to)| {
                number(from).is_some_and(|from| from <= start)
                    && number(to).is_some_and(|to| start < to)
            })
        };
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| !holds_it(line));
        let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{flags}");
    }
}
