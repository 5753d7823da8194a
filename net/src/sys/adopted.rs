//! Which sockets may be taken over from std, whose types accept any descriptor.
//!
//! Receiving, the seal and the drain depend on the kind of socket. Once the peer of a stream is
//! gone, every read returns 0 bytes, so reading until `EAGAIN` would never end. The filter that
//! seals a UDP socket would make a Unix socket lose datagrams after their senders saw success
//! (docs/kernel.md, K-UNIX-3).

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

use super::socket::Family;

/// The kind of a socket (`SO_DOMAIN`, `SO_TYPE`, `SO_PROTOCOL`, socket(7)).
#[derive(Clone, Copy, Debug)]
struct Kind {
    domain: Domain,
    r#type: Type,
    protocol: Option<Protocol>,
}

/// Refuses a socket that is not a datagram socket of `family`.
///
/// # Errors
///
/// * `InvalidInput`, with a text that says which kind of socket it is.
/// * Those of getsockopt(2), for example `ENOTSOCK` if it is not a socket.
pub(crate) fn check_adopted(socket: &Socket, family: Family) -> io::Result<()> {
    let kind =
        Kind { domain: socket.domain()?, r#type: socket.r#type()?, protocol: socket.protocol()? };
    if kind.is_datagram_socket_of(family) {
        return Ok(());
    }
    let wanted = match family {
        Family::Internet => "a UDP socket",
        Family::Unix => "a Unix datagram socket",
    };
    let Kind { domain, r#type, protocol } = kind;
    let protocol = protocol.map_or(0, i32::from);
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("expected {wanted}, got a socket of {domain:?}, {type:?}, protocol {protocol}"),
    ))
}

impl Kind {
    /// ICMP sockets (icmp(7)) and UDP-Lite sockets (udplite(7)) are datagram sockets of the
    /// internet families, too, but not UDP sockets.
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
