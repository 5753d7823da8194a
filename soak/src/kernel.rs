//! What the system has dropped, and what is left in the queue of a socket.

// UNSAFETY: memory that recv has written is initialized only after `set_len`.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::mem::MaybeUninit;

use socket2::Socket;

/// Takes a datagram that is left in the queue. `None` if there is none.
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

/// How many packets the system has dropped because the backlog of a CPU had no space. No socket can
/// count these.
pub(super) fn backlog_drops() -> u64 {
    let table = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    table.lines().filter_map(dropped).sum()
}
