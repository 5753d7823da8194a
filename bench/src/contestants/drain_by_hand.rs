//! The rest of a queue, for runtimes that have no way of their own to empty a socket.

use std::io;
use std::net::UdpSocket;

use socket2::Socket;

use crate::harness::tally::Tally;

/// A second descriptor of the socket, to read to the end by.
pub(super) fn second(socket: &Socket) -> io::Result<UdpSocket> {
    Ok(socket.try_clone()?.into())
}

/// Reads until `EAGAIN`, as the users of such a runtime have to. No receive of the runtime may be
/// in flight any more: it would take datagrams out of turn.
pub(super) fn read_to_the_end(
    socket: &UdpSocket,
    tally: &mut Tally,
    largest: usize,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut buffer = vec![0; largest];
    loop {
        match socket.recv_from(&mut buffer) {
            // Whether there is more, the socket says.
            Ok((length, _peer)) => drop(tally.take(&buffer[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
