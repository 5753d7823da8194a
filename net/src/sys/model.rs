//! [`ModelSocket`]: what a socket of a kernel in memory has to bring.

use std::io;
use std::os::fd::AsFd;

use ebbtide_runtime::driver::Layout;
use socket2::SockAddr;

/// A socket of a kernel in memory. Its descriptor is what the kernel's queues know it by; dropping
/// it closes the socket. Each method is one system call, and fails as that does.
pub trait ModelSocket: AsFd {
    /// `SO_MEMINFO`: how many datagrams were dropped.
    fn drop_count(&self) -> io::Result<u32>;

    /// `SO_ATTACH_FILTER` with a filter that accepts nothing.
    fn seal_by_filter(&self) -> io::Result<()>;

    /// `shutdown(SHUT_RD)`.
    fn seal_by_shutdown(&self) -> io::Result<()>;

    /// `recvmsg` with `MSG_DONTWAIT`, laid out as a multishot receive lays it out; returns the
    /// length of the whole.
    fn receive(&self, memory: &mut [u8], layout: Layout) -> io::Result<usize>;

    /// `recv` with `MSG_PEEK` and `MSG_DONTWAIT`.
    fn peek(&self) -> io::Result<usize>;

    /// `sendmsg` with `MSG_DONTWAIT`.
    fn send(&self, payload: &[u8], to: Option<&SockAddr>) -> io::Result<usize>;

    /// `dup3` of something else onto the descriptor, which closes the socket.
    fn replace_descriptor(&self) -> io::Result<()>;
}
