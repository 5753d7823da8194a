//! What this crate asks of the kernel beyond socket2.

// UNSAFETY: SO_MEMINFO and dup3 have no safe form, and socket2 shows raw addresses as pointers.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::{SockAddr, SockFilter, Socket};

/// Index of the drop counter in what SO_MEMINFO gives (`SK_MEMINFO_DROPS`).
const DROPS: usize = 8;

/// How many datagrams the kernel has dropped on this socket: `SO_MEMINFO`, Linux 4.12. Wraps.
pub(crate) fn drop_count(socket: &Socket) -> io::Result<u32> {
    let mut values = [0u32; DROPS + 1];
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the pointers name `values` and its length, and the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(values[DROPS]),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The seal of a UDP socket: a filter that accepts nothing. What is queued stays; what comes later
/// is dropped and counted by the kernel.
pub(crate) fn seal_by_filter(socket: &Socket) -> io::Result<()> {
    let accept_nothing = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    socket.attach_filter(&[accept_nothing])
}

/// Puts `placeholder` in the place of the socket: its address is free at once, while the number of
/// the descriptor stays ours, so that whoever has borrowed it touches no stranger's file.
pub(crate) fn vacate(socket: &Socket, placeholder: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open and owned by their holders; the number stays open.
    let result =
        unsafe { libc::dup3(placeholder.as_raw_fd(), socket.as_raw_fd(), libc::O_CLOEXEC) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The raw bytes of an address, as sendmsg(2) wants them.
pub(crate) fn raw_name(address: &SockAddr) -> &[u8] {
    let start: *const u8 = address.as_ptr().cast();
    // SAFETY: socket2 vouches for `len` initialized bytes at `as_ptr`, which live as the address.
    unsafe { std::slice::from_raw_parts(start, address.len() as usize) }
}
