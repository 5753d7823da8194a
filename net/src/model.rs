//! What a socket of a kernel in memory has to bring, and how it is opened. For this workspace's
//! tests (`model/`), behind `--cfg ebbtide_model`; not part of the interface of this crate.

use std::io;
use std::os::fd::AsFd;

use ebbtide_runtime::driver::Layout;
use socket2::SockAddr;

use crate::address::{Address, INTERNET_NAME_LEN};
use crate::control::Wanted;
use crate::datagram::{DatagramSocket, UdpSocket, UnixDatagram, open_udp, open_unix};
use crate::socket::Socket;

/// A socket of a kernel in memory. Its descriptor is what the kernel's queues know it by; dropping
/// it closes the socket. Each method is one system call, and fails as that does.
pub trait ModelSocket: AsFd {
    /// `SO_MEMINFO`: how many datagrams were dropped.
    fn drop_count(&self) -> io::Result<u32>;

    /// `SO_ATTACH_FILTER` with a filter that accepts nothing.
    fn seal_by_filter(&self) -> io::Result<()>;

    /// `shutdown(SHUT_RD)`.
    fn seal_by_shutdown(&self) -> io::Result<()>;

    /// `recvmsg` with `MSG_DONTWAIT`, laid out as a multishot receive lays it out; gives the length
    /// of the whole.
    fn receive(&self, memory: &mut [u8], layout: Layout) -> io::Result<usize>;

    /// `recv` with `MSG_PEEK` and `MSG_DONTWAIT`.
    fn peek(&self) -> io::Result<usize>;

    /// `sendmsg` with `MSG_DONTWAIT`.
    fn send(&self, payload: &[u8], to: Option<&SockAddr>) -> io::Result<usize>;

    /// `dup3` of something else onto the descriptor, which closes the socket.
    fn vacate(&self) -> io::Result<()>;
}

/// Opens a UDP socket of a kernel in memory in the runtime of this thread.
///
/// # Errors
///
/// That there is no runtime, or that it is shutting down.
pub fn udp(socket: Box<dyn ModelSocket>) -> io::Result<UdpSocket> {
    let layout = Layout::new(INTERNET_NAME_LEN, Wanted::SPACE_FOR_ALL);
    open_udp(Socket::Model(socket), layout, |_| Ok(()))
}

/// Opens a Unix datagram socket of a kernel in memory in the runtime of this thread.
///
/// # Errors
///
/// As [`udp`].
pub fn unix(socket: Box<dyn ModelSocket>) -> io::Result<UnixDatagram> {
    open_unix(Socket::Model(socket))
}

/// How many receive futures of a socket wait, by its own account.
pub fn waiting<A: Address>(socket: &DatagramSocket<A>) -> usize {
    socket.endpoint().waiting()
}
