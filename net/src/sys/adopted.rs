//! Which descriptors may be taken over from std, whose types take any descriptor.
//!
//! Receiving, the seal and the drain rest on what the socket is. A stream answers every read with
//! 0 bytes once its peer is gone, so that reading until `EAGAIN` never ends. The filter that seals
//! a UDP socket makes a Unix socket lose what its senders were told was sent.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

use super::socket::Family;

/// What a socket is (`SO_DOMAIN`, `SO_TYPE`, `SO_PROTOCOL`, socket(7)).
#[derive(Clone, Copy, Debug)]
struct Nature {
    domain: Domain,
    r#type: Type,
    protocol: Option<Protocol>,
}

/// Refuses a socket that is not a datagram socket of `family`.
///
/// # Errors
///
/// `InvalidInput`, which says what it is; those of getsockopt(2): `ENOTSOCK` if it is no socket.
pub(crate) fn check_adopted(socket: &Socket, family: Family) -> io::Result<()> {
    let nature =
        Nature { domain: socket.domain()?, r#type: socket.r#type()?, protocol: socket.protocol()? };
    if nature.is_datagram_socket_of(family) {
        return Ok(());
    }
    let wanted = match family {
        Family::Internet => "a UDP socket",
        Family::Unix => "a Unix datagram socket",
    };
    let Nature { domain, r#type, protocol } = nature;
    let protocol = protocol.map_or(0, i32::from);
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("expected {wanted}, got a socket of {domain:?}, {type:?}, protocol {protocol}"),
    ))
}

impl Nature {
    /// ICMP sockets (icmp(7)) and UDP-Lite (udplite(7)) are datagram sockets of the internet
    /// families as well. They are no UDP sockets.
    fn is_datagram_socket_of(self, family: Family) -> bool {
        let Self { domain, r#type, protocol } = self;
        let is_of_family = match family {
            Family::Internet => {
                matches!(domain, Domain::IPV4 | Domain::IPV6) && protocol == Some(Protocol::UDP)
            }
            Family::Unix => domain == Domain::UNIX,
        };
        is_of_family && r#type == Type::DGRAM
    }
}
