//! Socket options that nothing has a setter for, and sends with control messages.

// UNSAFETY: setsockopt and sendmsg take raw pointers.
#![expect(unsafe_code, reason = "argued above")]
#![allow(unreachable_pub, reason = "it is a module of each test binary")]
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use socket2::Socket;

/// Sets a flag.
pub fn switch_on(socket: &impl AsFd, level: i32, option: i32) {
    let on: libc::c_int = 1;
    let len = size_of_val(&on) as libc::socklen_t;
    let number = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer names `on` and its length.
    let result = unsafe { libc::setsockopt(number, level, option, (&raw const on).cast(), len) };
    assert_eq!(result, 0, "option {option}: {}", io::Error::last_os_error());
}

/// Sends `payload` with a control message of this level and type.
///
/// # Errors
///
/// Those of sendmsg(2).
pub fn send_with(
    sender: &Socket,
    payload: &[u8],
    (level, kind): (i32, i32),
    data: &[u8],
) -> io::Result<()> {
    let mut vector =
        libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: takes a number.
    let space = unsafe { libc::CMSG_SPACE(data.len() as u32) } as usize;
    // Of words, for the alignment of what lies in it.
    let mut control = vec![0u64; space.div_ceil(8)];
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = space;
    // SAFETY: there is room for one control message, as counted above.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: it lies in `control`, which is aligned for it, and nobody else refers to it.
    let header = unsafe { &mut *header };
    header.cmsg_level = level;
    header.cmsg_type = kind;
    // SAFETY: takes a number.
    header.cmsg_len = unsafe { libc::CMSG_LEN(data.len() as u32) } as usize;
    // SAFETY: its data follows it.
    let place = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: there is room for so many bytes, as counted above.
    unsafe { place.copy_from_nonoverlapping(data.as_ptr(), data.len()) };
    // SAFETY: all that the message points to lives until the call returns.
    let sent = unsafe { libc::sendmsg(sender.as_raw_fd(), &raw const message, 0) };
    if sent == payload.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends descriptors along (`SCM_RIGHTS`).
pub fn send_with_descriptors(sender: &Socket, payload: &[u8], descriptors: &[RawFd]) {
    let data: Vec<u8> = descriptors.iter().flat_map(|number| number.to_ne_bytes()).collect();
    send_with(sender, payload, (libc::SOL_SOCKET, libc::SCM_RIGHTS), &data).unwrap();
}
