//! Options of internet sockets that socket2 has no setter for.

// UNSAFETY: setsockopt and getsockopt take raw pointers.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket};

use crate::control::Wanted;

/// Sets an option of setsockopt(2) that is on or off.
pub(crate) fn set_flag(socket: &Socket, level: i32, name: i32, on: bool) -> io::Result<()> {
    let value = libc::c_int::from(on);
    // SAFETY: the pointer names `value` and its length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether an option of getsockopt(2) is on.
pub(crate) fn flag(socket: &Socket, level: i32, name: i32) -> io::Result<bool> {
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointers name `value` and its length, and the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len)
    };
    if result == 0 { Ok(value != 0) } else { Err(io::Error::last_os_error()) }
}

/// Asks the kernel to send with each datagram what is wanted.
pub(crate) fn request(socket: &Socket, wanted: Wanted) -> io::Result<()> {
    let is_v6 = socket.domain()? == Domain::IPV6;
    if wanted.ecn {
        set_flag(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, true)?;
    }
    if wanted.ecn && is_v6 {
        set_flag(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, true)?;
    }
    if wanted.dst_ip {
        let (level, name) = match is_v6 {
            // Also of IPv4 datagrams, as a mapped address.
            true => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            false => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        };
        set_flag(socket, level, name, true)?;
    }
    if wanted.timestamp {
        set_flag(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, true)?;
    }
    if wanted.drop_count {
        set_flag(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, true)?;
    }
    Ok(())
}
