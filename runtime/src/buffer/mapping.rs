//! A block of anonymous memory straight from the kernel.
//!
//! Not the allocator's: the block is unmapped when it is freed, so that a late write by the kernel
//! is a visible error instead of silent corruption, and it is kept out of forked children
//! (`MADV_DONTFORK`), which would otherwise keep a dead runtime's memory alive.

// UNSAFETY: mmap, madvise and munmap have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::ptr::NonNull;

/// Zeroed, page-aligned memory; unmapped on drop.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice; it touches no
        // memory that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("mmap never maps page zero");
        let mapping = Self { start, len };
        // Miri has no madvise, and no fork either.
        if !cfg!(miri) {
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
        // SAFETY: the range was mapped by `new` and is unmapped once. Whoever lent it to the kernel
        // has taken it back by now (see `Pool`).
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert_eq!(result, 0, "munmap of a mapping of our own cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a forked child gets the memory: its flags then lack "dc", do not copy.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no /proc")]
    fn a_forked_child_does_not_get_the_memory() {
        let mapping = Mapping::new(1 << 20).unwrap();
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
