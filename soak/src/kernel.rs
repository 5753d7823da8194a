//! What the system has dropped, and what is left in a socket's queue.

// UNSAFETY: what recv has written counts as initialized only by `set_len`.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::mem::MaybeUninit;

use socket2::Socket;

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
