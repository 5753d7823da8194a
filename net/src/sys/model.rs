//! [`ModelSocket`]: what a socket of a kernel in memory provides.

use std::io;
use std::os::fd::AsFd;

use ebbtide_runtime::driver::Layout;
use socket2::SockAddr;

/// A socket of a kernel in memory. The kernel's queues know it by its descriptor, and dropping it
/// closes the socket. Each method is one system call and fails with the errors of that call.
pub trait ModelSocket: AsFd {
    /// `SO_MEMINFO`: the number of dropped datagrams.
    fn drop_count(&self) -> io::Result<u32>;

    /// `SO_ATTACH_FILTER` with a filter that accepts nothing.
    fn seal_by_filter(&self) -> io::Result<()>;

    /// `shutdown(SHUT_RD)`.
    fn seal_by_shutdown(&self) -> io::Result<()>;

    /// `recvmsg` with `MSG_DONTWAIT`, in the layout of a multishot receive. Returns the total
    /// length.
    fn receive(&self, memory: &mut [u8], layout: Layout) -> io::Result<usize>;

    /// `recv` with `MSG_PEEK` and `MSG_DONTWAIT`.
    fn peek(&self) -> io::Result<usize>;

    /// `sendmsg` with `MSG_DONTWAIT`.
    fn send(&self, payload: &[u8], to: Option<&SockAddr>) -> io::Result<usize>;

    /// `dup3` of another descriptor onto this one, which closes the socket.
    fn replace_descriptor(&self) -> io::Result<()>;
}
