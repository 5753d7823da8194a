//! The sockets of a measurement, made before the contestant starts and handed to it.

// UNSAFETY: SO_RCVBUFFORCE has no safe wrapper.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use ebbtide_testkit::socket::dropped;
use socket2::{Domain, Protocol, Socket, Type};

/// The receive buffer of a socket that holds a whole backlog: 64 MiB, which the kernel doubles. It
/// charges a queued datagram of 64 bytes with 768, and one of 1200 with 2304.
const RECEIVE_BUFFER: usize = 64 << 20;

/// `count` UDP sockets on loopback, non-blocking, with receive buffers in which nothing is dropped.
pub(crate) fn udp_receivers(count: usize) -> io::Result<Vec<Socket>> {
    (0..count).map(|_| udp_socket()).collect()
}

pub(crate) fn udp_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    force_receive_buffer(&socket, RECEIVE_BUFFER)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The address of a UDP socket.
pub(crate) fn address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an internet socket"))
}

/// Beyond `net.core.rmem_max` if the process has the right to; else up to it. The kernel's drop
/// counter shows if that was not enough.
fn force_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    let value = bytes as libc::c_int;
    // SAFETY: the option takes an int, and `value` is one.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { socket.set_recv_buffer_size(bytes) }
}

/// Whether a whole backlog fits into the receive buffer of a socket of this process.
pub(crate) fn may_force_receive_buffer() -> bool {
    udp_socket()
        .and_then(|socket| socket.recv_buffer_size())
        .is_ok_and(|bytes| bytes >= RECEIVE_BUFFER)
}

/// Datagrams that the kernel has dropped because the socket's buffer was full.
pub(crate) fn dropped_by_kernel(socket: &Socket) -> io::Result<u64> {
    dropped(socket).map(u64::from)
}
