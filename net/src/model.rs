//! Opens sockets of a kernel in memory, for the tests in `model/`. Only with `--cfg ebbtide_model`;
//! not part of the public interface.

use std::io;

use ebbtide_runtime::driver::Layout;

use crate::datagram::{DatagramSocket, UdpSocket, UnixDatagram, open_udp, open_unix};
use crate::sys::address::{Address, INTERNET_NAME_LEN};
use crate::sys::control::Wanted;
pub use crate::sys::model::ModelSocket;
use crate::sys::socket::Socket;

/// Opens a UDP socket of a kernel in memory, in the runtime of this thread.
///
/// # Errors
///
/// There is no runtime on this thread, or it is shutting down.
pub fn udp(socket: Box<dyn ModelSocket>) -> io::Result<UdpSocket> {
    let layout = Layout::new(INTERNET_NAME_LEN, Wanted::SPACE_FOR_ALL);
    open_udp(Socket::Model(socket), layout, |_| Ok(()))
}

/// Opens a Unix datagram socket of a kernel in memory, in the runtime of this thread.
///
/// # Errors
///
/// Those of [`udp`].
pub fn unix(socket: Box<dyn ModelSocket>) -> io::Result<UnixDatagram> {
    open_unix(Socket::Model(socket))
}

/// How many receive futures wait on the socket, as the socket counts them.
pub fn waiting<A: Address>(socket: &DatagramSocket<A>) -> usize {
    socket.endpoint().waiting()
}
