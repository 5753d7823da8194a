//! How a socket of a kernel in memory is opened. For this workspace's
//! tests (`model/`), behind `--cfg ebbtide_model`; not part of the interface of this crate.

use std::io;

use ebbtide_runtime::driver::Layout;

use crate::datagram::{DatagramSocket, UdpSocket, UnixDatagram, open_udp, open_unix};
use crate::sys::address::{Address, INTERNET_NAME_LEN};
use crate::sys::control::Wanted;
pub use crate::sys::model::ModelSocket;
use crate::sys::socket::Socket;

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
