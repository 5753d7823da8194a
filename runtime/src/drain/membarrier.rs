//! membarrier(2), Linux 4.3.

// UNSAFETY: libc has no wrapper for it.
#![expect(unsafe_code, reason = "argued above")]

use std::io;

const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Waits until every CPU has passed through the scheduler, which it does not do while it has a
/// packet in hand. What is in its backlog is not in hand (docs/kernel.md, K-CPU-2).
///
/// # Errors
///
/// `EINVAL` on kernels with `nohz_full`, `ENOSYS` if it was not built in.
pub(crate) fn global() -> io::Result<()> {
    // SAFETY: takes three numbers and touches no memory.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
