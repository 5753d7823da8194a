//! Reads the rest of a queue, for runtimes that have no function that empties a socket.

use std::io;
use std::net::UdpSocket;

use socket2::Socket;

use crate::harness::tally::Tally;

/// A second descriptor of the socket, for [`read_to_the_end`].
pub(super) fn second_descriptor(socket: &Socket) -> io::Result<UdpSocket> {
    Ok(socket.try_clone()?.into())
}

/// Reads until `EAGAIN`, which the users of such a runtime have to do. No receive of the runtime
/// may be in flight: it would take datagrams out of order.
pub(super) fn read_to_the_end(
    socket: &UdpSocket,
    tally: &mut Tally,
    largest: usize,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut buffer = vec![0; largest];
    loop {
        match socket.recv_from(&mut buffer) {
            // The socket reports whether there is more.
            Ok((length, _peer)) => drop(tally.take(&buffer[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
