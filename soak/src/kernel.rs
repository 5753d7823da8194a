//! What the kernel has counted, and what is left in a socket's queue.

// UNSAFETY: SO_MEMINFO has no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use socket2::Socket;

/// Index of the drop counter in what SO_MEMINFO gives (`SK_MEMINFO_DROPS`).
const DROPS: usize = 8;

/// Datagrams that the kernel has dropped on a socket, before and after its seal.
pub(super) fn drops(socket: &Socket) -> io::Result<u64> {
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
        0 => Ok(u64::from(values[DROPS])),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes a datagram that is left in the queue. `None`: there is none.
pub(super) fn take(socket: &Socket, memory: &mut Vec<u8>) -> Option<usize> {
    memory.clear();
    loop {
        let room: &mut [MaybeUninit<u8>] = memory.spare_capacity_mut();
        match socket.recv_with_flags(room, libc::MSG_DONTWAIT) {
            Ok(len) => {
                // SAFETY: the kernel has just written `len` bytes from the start.
                unsafe { memory.set_len(len) };
                return Some(len);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_pending_error_of_the_socket) => {}
        }
    }
}

/// Packets that the whole system has dropped for want of room in a processor's backlog: before any
/// socket could count them.
pub(super) fn backlog_drops() -> u64 {
    let table = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    table.lines().filter_map(dropped).sum()
}
