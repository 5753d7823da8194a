//! What differs between Unix and UDP, for scenarios that run on both.

use std::net::SocketAddr;

use ebbtide::net::{Address, DatagramSocket, UdpSocket, UnixAddr, UnixDatagram};
use socket2::{Domain, Socket, Type};

/// A kind of datagram socket, named by its addresses.
pub trait Transport: Address + 'static {
    /// Whether the kernel drops a datagram for which there is no buffer space.
    const MAY_DROP: bool;

    /// A sender and a receiver. They have buffer space for 1 000 small datagrams, if the system
    /// allows that much.
    fn pair() -> (Socket, Socket);

    /// Adopts `socket` into the runtime of this thread.
    fn open(socket: Socket) -> DatagramSocket<Self>;
}

const BUFFER_SPACE: usize = 2 << 20;

impl Transport for UnixAddr {
    const MAY_DROP: bool = false;

    fn pair() -> (Socket, Socket) {
        // The queue of a pair is limited only by the send buffer, not by max_dgram_qlen.
        let (sender, receiver) = Socket::pair(Domain::UNIX, Type::DGRAM, None).expect("a pair");
        sender.set_send_buffer_size(BUFFER_SPACE).expect("the kernel accepts any size");
        (sender, receiver)
    }

    fn open(socket: Socket) -> DatagramSocket<Self> {
        UnixDatagram::from_std(socket.into()).expect("it is a Unix datagram socket").into()
    }
}

impl Transport for SocketAddr {
    const MAY_DROP: bool = true;

    fn pair() -> (Socket, Socket) {
        let bind = || Socket::from(std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback"));
        let (sender, receiver) = (bind(), bind());
        let address = receiver.local_addr().expect("it is bound");
        sender.connect(&address).expect("it is on loopback");
        receiver.set_recv_buffer_size(BUFFER_SPACE).expect("the kernel accepts any size");
        (sender, receiver)
    }

    fn open(socket: Socket) -> DatagramSocket<Self> {
        UdpSocket::from_std(socket.into()).expect("it is a UDP socket").into()
    }
}
