//! [`Peer`]: which sender of a world an address names.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;

use ebbtide_net::{Address, DatagramSocket, RecvTrain, UnixAddr};

use crate::socket::{FIRST_PORT, sender_of};

/// The address of a sender.
pub(crate) trait Peer: Address + 'static {
    /// Whose address it is. `None`: a socket without a name.
    fn sender(&self) -> Option<u16>;

    /// Receives a train, where there is such a thing.
    fn recv_train(socket: &DatagramSocket<Self>) -> Option<RecvTrain<'_>>;
}

impl Peer for SocketAddr {
    fn sender(&self) -> Option<u16> {
        self.port().checked_sub(FIRST_PORT)
    }

    fn recv_train(socket: &DatagramSocket<Self>) -> Option<RecvTrain<'_>> {
        Some(socket.recv_train())
    }
}

impl Peer for UnixAddr {
    fn sender(&self) -> Option<u16> {
        sender_of(self.as_pathname()?.as_os_str().as_bytes())
    }

    fn recv_train(_socket: &DatagramSocket<Self>) -> Option<RecvTrain<'_>> {
        None
    }
}
