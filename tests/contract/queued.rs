//! Sockets with queued datagrams.

use std::net::SocketAddr;

use ebbtide::net::UdpSocket;

/// A socket with `count` queued datagrams.
pub(crate) fn socket_with(count: usize) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    send(count, socket.local_addr().unwrap());
    socket
}

/// Sends `count` datagrams, each with its number as payload.
pub(crate) fn send(count: usize, to: SocketAddr) {
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..count {
        sender.send_to(&[number as u8], to).unwrap();
    }
}
