//! Stepping aside: how a socket that shares its address (`SO_REUSEPORT`) leaves its share of the
//! datagrams to the other members of its group. It does so before it is sealed or closed.
//!
//! A sealed member keeps its share and drops it, but one that is connected gets only what its peer
//! sends (docs/kernel.md, K-PORT-1). So the socket is connected to an address from which nobody
//! sends. Its queue stays, and it can still send. If it had no source address, connecting has
//! chosen one (docs/kernel.md, K-PORT-3). Each datagram is then sent with the source that it would
//! have had before.
//!
//! Closing alone is not enough: datagrams would be lost meanwhile (docs/kernel.md, K-PORT-2).

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::registered::RegisteredSocket;
use crate::sys::socket::{Family, disconnect};

/// A port from which nobody sends.
const SILENT_PORT: u16 = 1;

/// The state of a socket before it stepped aside.
#[derive(Debug)]
pub(super) struct Aside {
    local: SocketAddr,
    /// The interface to which it is bound (`SO_BINDTODEVICE`). Disconnecting removes it
    /// (docs/kernel.md, K-PORT-4).
    device: Option<Vec<u8>>,
    source: Source,
    /// The last destination whose source had to be looked up, and that source.
    last: Cell<Option<(IpAddr, IpAddr)>>,
}

/// Which source address the datagrams of a socket have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The address to which the socket is bound.
    Bound,
    /// The one that the route to the destination determines.
    Route,
}

impl Aside {
    /// Connects an unconnected member of a group to nobody. `None` if it is no such member, or if
    /// no such address can be connected to.
    fn step(socket: &Socket) -> Option<Self> {
        if !socket.reuse_port().ok()? || socket.peer_addr().is_ok() {
            return None;
        }
        let local = socket.local_addr().ok()?.as_socket()?;
        if local.port() == 0 {
            return None;
        }
        let device = socket.device().ok().flatten();
        let mut source = source(local.ip());
        for silent in silent_addresses(local) {
            match socket.connect(&silent.into()) {
                Ok(()) => return Some(Self { local, device, source, last: Cell::default() }),
                // The socket is bound to the broadcast address of a network.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    source = Source::Route;
                }
                Err(_) => {}
            }
        }
        None
    }

    /// Restores the socket.
    ///
    /// Disconnecting removes a port that the kernel chose (docs/kernel.md, K-PORT-4). A member with
    /// such a port is bound to it again, and so it is in its group again. Other members are not.
    fn step_back(&self, socket: &Socket) -> io::Result<()> {
        disconnect(socket)?;
        if self.device.is_some() {
            socket.bind_device(self.device.as_deref())?;
        }
        match socket.local_addr()?.as_socket() {
            Some(local) if local.port() == 0 => socket.bind(&self.local.into()),
            _ => Ok(()),
        }
    }

    /// The source address for a datagram to `destination`. `None` if the kernel knows it.
    fn source_to(&self, destination: SocketAddr) -> Option<IpAddr> {
        match (self.source, destination.ip().to_canonical()) {
            (Source::Bound, _) => None,
            // The kernel ignores an unspecified source address here (`ip_cmsg_send`).
            (Source::Route, IpAddr::V4(_)) => Some(Ipv4Addr::UNSPECIFIED.into()),
            // For IPv6 an unspecified address stands for that of the socket (`udpv6_sendmsg`).
            (Source::Route, ip @ IpAddr::V6(_)) => match self.last.get() {
                Some((last, source)) if last == ip => Some(source),
                _ => {
                    let source = self.source_of_route(destination).ok()?;
                    self.last.set(Some((ip, source)));
                    Some(source)
                }
            },
        }
    }

    /// Asks the kernel for the source address, with a separate socket.
    fn source_of_route(&self, destination: SocketAddr) -> io::Result<IpAddr> {
        let probe = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None)?;
        if self.device.is_some() {
            probe.bind_device(self.device.as_deref())?;
        }
        probe.connect(&destination.into())?;
        let source = probe.local_addr()?.as_socket().map(|source| source.ip());
        source.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }
}

/// Addresses from which no datagram comes. Those that are reached in the same way as peers come
/// first.
fn silent_addresses(local: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let mut own = local;
    own.set_port(SILENT_PORT);
    let own = (source(local.ip()) == Source::Bound).then_some(own);
    // The last ones can be reached even if the socket is bound to an interface, or IPv6 is off.
    let others = match local {
        SocketAddr::V4(_) => {
            vec![IpAddr::from(Ipv4Addr::LOCALHOST), Ipv4Addr::new(224, 0, 0, 1).into()]
        }
        SocketAddr::V6(_) => vec![
            IpAddr::from(Ipv6Addr::LOCALHOST),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
            Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        ],
    };
    own.into_iter().chain(others.into_iter().map(|ip| SocketAddr::new(ip, SILENT_PORT)))
}

/// Which source address a socket bound to `ip` sends from.
fn source(ip: IpAddr) -> Source {
    let ip = ip.to_canonical();
    let chosen = ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST;
    if chosen { Source::Route } else { Source::Bound }
}

/// Set while the socket has stepped aside.
#[derive(Debug, Default)]
pub(super) struct SteppedAside(RefCell<Option<Aside>>);

impl RegisteredSocket {
    /// If the socket shares its address, leaves its share to the other sockets. Otherwise does
    /// nothing.
    pub(super) fn leave_share(&self) {
        if self.family() == Family::Internet
            && !self.stands_aside()
            && let Ok(socket) = self.socket.kernel()
        {
            *self.aside.0.borrow_mut() = Aside::step(socket);
        }
    }

    /// Whether the socket has stepped aside, and so is connected to nobody.
    #[inline]
    pub(super) fn stands_aside(&self) -> bool {
        self.aside.0.borrow().is_some()
    }

    /// Undoes [`leave_share`](Self::leave_share).
    pub(super) fn take_share(&self) -> io::Result<()> {
        match self.aside.0.take() {
            Some(aside) => aside.step_back(self.socket.kernel()?),
            None => Ok(()),
        }
    }

    /// The source address for a datagram to `destination`. `None` if the kernel knows it.
    pub(super) fn source_to(&self, destination: SocketAddr) -> Option<IpAddr> {
        self.aside.0.borrow().as_ref()?.source_to(destination)
    }

    /// Sets the peer of an internet socket.
    pub(super) fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        let stood_aside = self.stands_aside();
        self.take_share()?;
        let connected = self.kernel()?.connect(&peer.into());
        if connected.is_err() && stood_aside {
            self.leave_share();
        }
        connected
    }

    /// The local address of an internet socket, as the program knows it.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        let socket = self.kernel()?;
        if let Some(aside) = &*self.aside.0.borrow() {
            return Ok(aside.local);
        }
        internet(&socket.local_addr()?)
    }

    /// The peer to which the program has connected an internet socket.
    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        let socket = self.kernel()?;
        if self.stands_aside() {
            return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
        }
        internet(&socket.peer_addr()?)
    }
}

fn internet(addr: &socket2::SockAddr) -> io::Result<SocketAddr> {
    addr.as_socket().ok_or_else(|| io::Error::other("the socket has no internet address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_reached_from_the_address_of_the_socket_if_it_has_one() {
        let first =
            |local: &str| silent_addresses(local.parse().unwrap()).next().unwrap().to_string();
        assert_eq!(first("192.0.2.7:53"), "192.0.2.7:1");
        assert_eq!(first("0.0.0.0:53"), "127.0.0.1:1");
        assert_eq!(first("239.1.2.3:53"), "127.0.0.1:1");
        assert_eq!(first("[fe80::7%3]:53"), "[fe80::7%3]:1");
        assert_eq!(first("[::]:53"), "[::1]:1");
        assert_eq!(first("[::ffff:192.0.2.7]:53"), "[::ffff:192.0.2.7]:1");
    }

    #[test]
    fn a_socket_without_an_address_of_its_own_sends_from_that_of_the_route() {
        for chosen in ["0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "::ffff:0.0.0.0"]
        {
            assert_eq!(source(chosen.parse().unwrap()), Source::Route, "{chosen}");
        }
        for bound in ["127.0.0.1", "::1", "192.0.2.7", "::ffff:192.0.2.7", "fe80::7"] {
            assert_eq!(source(bound.parse().unwrap()), Source::Bound, "{bound}");
        }
    }
}
