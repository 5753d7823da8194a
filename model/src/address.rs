//! [`Peer`]: which sender of a world an address belongs to.

use std::net::SocketAddr;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;

use ebbtide_net::{Address, DatagramSocket, RecvTrain, UdpSocket, UnixAddr, UnixDatagram};

use crate::socket::{FIRST_PORT, sender_of};

/// The address of a sender.
pub(crate) trait Peer: Address + 'static {
    /// The sockets that receive from it.
    type Socket: Deref<Target = DatagramSocket<Self>> + 'static;

    /// The sender with this address. `None` for a socket without a name.
    fn sender(&self) -> Option<u16>;

    /// Receives a train, if the socket can.
    fn recv_train(socket: &Self::Socket) -> Option<RecvTrain<'_>>;
}

impl Peer for SocketAddr {
    type Socket = UdpSocket;

    fn sender(&self) -> Option<u16> {
        self.port().checked_sub(FIRST_PORT)
    }

    fn recv_train(socket: &Self::Socket) -> Option<RecvTrain<'_>> {
        Some(socket.recv_train())
    }
}

impl Peer for UnixAddr {
    type Socket = UnixDatagram;

    fn sender(&self) -> Option<u16> {
        sender_of(self.as_pathname()?.as_os_str().as_bytes())
    }

    fn recv_train(_socket: &Self::Socket) -> Option<RecvTrain<'_>> {
        None
    }
}
