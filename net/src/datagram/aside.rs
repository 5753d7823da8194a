//! Stepping aside: how a member of a group that shares an address (`SO_REUSEPORT`) leaves its share
//! to the others before it is sealed or closed.
//!
//! A sealed member would stay in the group: the kernel would go on giving it its share, which the
//! seal refuses. A member that is connected to somebody is passed over, unless that peer sends
//! (`reuseport_select_sock_by_hash`, `compute_score`). So it is connected to nobody. What was queued
//! stays, and it can still send; but on a socket without a source address of its own, connecting
//! chose one, so that each datagram has to be given the source that it would have had.
//!
//! Closing alone does not do: the kernel takes a socket out of its group before it takes it out of
//! its lists of sockets, and what comes in between is queued on a socket that goes (`udp_lib_unhash`).

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::registered::RegisteredSocket;
use crate::sys::socket::{Family, disconnect};

/// A port from which nobody sends.
const NOBODY: u16 = 1;

/// What a socket was before it stepped aside.
#[derive(Debug)]
pub(super) struct Aside {
    local: SocketAddr,
    /// The interface that it is bound to (`SO_BINDTODEVICE`), which disconnecting takes away.
    device: Option<Vec<u8>>,
    source: Source,
    /// Where the last datagram of this kind went, and from which address.
    last: Cell<Option<(IpAddr, IpAddr)>>,
}

/// Which source address its datagrams had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The one that the socket is bound to.
    Bound,
    /// That of the route to their destination.
    Route,
}

impl Aside {
    /// Connects an unconnected member of a group to nobody. `None`: it is no such member, or nobody
    /// can be reached.
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
        for nobody in nobodies(local) {
            match socket.connect(&nobody.into()) {
                Ok(()) => return Some(Self { local, device, source, last: Cell::default() }),
                // It is bound to the broadcast address of a network.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    source = Source::Route;
                }
                Err(_) => {}
            }
        }
        None
    }

    /// Makes the socket what it was. A member whose port the kernel had chosen is bound to it again,
    /// because disconnecting takes it away, and is in its group again; any other is not.
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

    /// The source address to send from to `destination`. `None`: the kernel knows it.
    fn source_to(&self, destination: SocketAddr) -> Option<IpAddr> {
        match (self.source, destination.ip().to_canonical()) {
            (Source::Bound, _) => None,
            // The kernel takes the unspecified address for none (`ip_cmsg_send`).
            (Source::Route, IpAddr::V4(_)) => Some(Ipv4Addr::UNSPECIFIED.into()),
            // Here it takes it for that of the socket (`udpv6_sendmsg`).
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

    /// Asks the kernel by a socket of our own.
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

/// Addresses of nobody, from which no datagram comes: first those that are reached as peers are.
fn nobodies(local: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let mut own = local;
    own.set_port(NOBODY);
    let own = (source(local.ip()) == Source::Bound).then_some(own);
    // The last ones are reached also from a socket that is bound to an interface, or where IPv6 is off.
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
    own.into_iter().chain(others.into_iter().map(|ip| SocketAddr::new(ip, NOBODY)))
}

/// Which source address the datagrams of a socket that is bound to `ip` have.
fn source(ip: IpAddr) -> Source {
    let ip = ip.to_canonical();
    let chosen = ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST;
    if chosen { Source::Route } else { Source::Bound }
}

/// The socket that has stepped aside, if it has.
#[derive(Debug, Default)]
pub(super) struct Place(RefCell<Option<Aside>>);

impl RegisteredSocket {
    /// Leaves the share of a socket that others share an address with to them. Does nothing to any
    /// other socket.
    pub(super) fn leave_share(&self) {
        if self.family() == Family::Internet
            && !self.stands_aside()
            && let Ok(socket) = self.socket.kernel()
        {
            *self.place.0.borrow_mut() = Aside::step(socket);
        }
    }

    /// Whether it is connected to nobody.
    #[inline]
    pub(super) fn stands_aside(&self) -> bool {
        self.place.0.borrow().is_some()
    }

    /// Undoes [`leave_share`](Self::leave_share).
    pub(super) fn take_share(&self) -> io::Result<()> {
        match self.place.0.take() {
            Some(aside) => aside.step_back(self.socket.kernel()?),
            None => Ok(()),
        }
    }

    /// The source to send from to `destination`. `None`: the kernel knows it.
    pub(super) fn source_to(&self, destination: SocketAddr) -> Option<IpAddr> {
        self.place.0.borrow().as_ref()?.source_to(destination)
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

    /// The address that the program knows an internet socket by.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        let socket = self.kernel()?;
        if let Some(aside) = &*self.place.0.borrow() {
            return Ok(aside.local);
        }
        internet(&socket.local_addr()?)
    }

    /// The peer that the program has connected an internet socket to.
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
        let first = |local: &str| nobodies(local.parse().unwrap()).next().unwrap().to_string();
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
