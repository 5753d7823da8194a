//! A block of anonymous memory straight from the kernel.
//!
//! Not the allocator's: the block is unmapped when it is freed, so that a late write by the kernel
//! is a visible error instead of silent corruption. What the kernel writes is kept out of forked
//! children (`MADV_DONTFORK`), which would otherwise keep a dead runtime's memory alive.

// UNSAFETY: mmap, madvise and munmap have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use crate::process::Process;

/// Bytes on either side of a mapping that nobody may touch, so that a write past its end is an
/// error, by the kernel (`EFAULT`) as by us. In debug builds only: it takes two more mappings, of
/// which a process has 65 530. A page, wherever pages are not larger than 64 KiB.
const GUARD: usize = if cfg!(all(debug_assertions, not(miri))) { 65_536 } else { 0 };

/// Zeroed, page-aligned memory; unmapped on drop.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// The process that made it.
    process: Process,
}

/// What a forked child gets of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InChild {
    /// Nothing: to touch it there is an error.
    Absent,
    /// A copy.
    Copied,
}

const ACCESS: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

impl Mapping {
    pub(crate) fn new(len: usize, in_child: InChild) -> io::Result<Self> {
        let access = if GUARD != 0 { libc::PROT_NONE } else { ACCESS };
        // SAFETY: an anonymous private mapping at an address of the kernel's choice; it touches no
        // memory that exists.
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
        // SAFETY: inside of the mapping just made.
        let start = unsafe { whole.cast::<u8>().add(GUARD) };
        let start = NonNull::new(start).expect("mmap never maps page zero");
        let mapping = Self { start, len, process: Process::current() };
        if GUARD != 0 {
            // SAFETY: the range is what lies between the guards of the mapping just made.
            let result = unsafe { libc::mprotect(start.as_ptr().cast(), len, ACCESS) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Miri has no madvise, and no fork either.
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
            // In a forked child: it may not be here, and other memory in its place.
            return;
        }
        // SAFETY: the guard in front belongs to the same mapping.
        let whole = unsafe { self.start.as_ptr().sub(GUARD) };
        // SAFETY: the range was mapped by `new` and is unmapped once. Whoever lent it to the kernel
        // has taken it back by now (see `Pool`).
        let result = unsafe { libc::munmap(whole.cast(), self.len + 2 * GUARD) };
        debug_assert_eq!(result, 0, "munmap of a mapping of our own cannot fail");
    }
}

/// A mapping of which nobody else has any part. What was never written to takes no memory.
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
        // SAFETY: mapped as long as `self` lives, zeroed when mapped, and nobody else's.
        unsafe { slice::from_raw_parts(self.mapping.start().as_ptr(), self.mapping.len()) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only way to it.
        unsafe { slice::from_raw_parts_mut(self.mapping.start().as_ptr(), self.mapping.len()) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    /// Fails without guards, unless the neighbours of the mapping happen to be closed to us. The
    /// kernel is asked to read: it fails where the program would die.
    #[test]
    #[cfg_attr(any(miri, not(debug_assertions)), ignore = "there are guards in debug builds only")]
    fn what_lies_before_and_after_the_memory_cannot_be_touched() {
        let len = 3 * 65_536;
        let mapping = Mapping::new(len, InChild::Absent).unwrap();
        let (_reader, writer) = io::pipe().unwrap();
        let touch = |at: *const u8| {
            // SAFETY: takes a byte from where the kernel may refuse to read it.
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

    /// Fails when a forked child gets the memory: its flags then lack "dc", do not copy.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no /proc")]
    fn a_forked_child_does_not_get_the_memory() {
        let mapping = Mapping::new(1 << 20, InChild::Absent).unwrap();
        let start = mapping.start().as_ptr().addr();
        // Each range of addresses is followed by what there is to say of it.
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
