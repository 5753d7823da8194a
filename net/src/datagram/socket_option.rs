//! The options of a [`UdpSocket`] that can be set at any time. Those for before it is bound are in
//! [`UdpOptions`](crate::UdpOptions).
//!
//! The names are those of std, tokio and socket2. An option of IPv6 on a socket of IPv4 is refused by
//! the kernel (`ENOPROTOOPT`); an option of IPv4 on a socket of IPv6 is for its IPv4 datagrams.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::InterfaceIndexOrAddress;

use super::endpoint::Endpoint;
use super::udp::UdpSocket;
use crate::sys::option::{
    Membership, bind_device, count, set_source_membership, traffic_class, traffic_classes,
};

/// Options. All getters fail with the errors of getsockopt(2), and all setters with those of
/// setsockopt(2).
impl UdpSocket {
    /// Whether sending to broadcast addresses is allowed (`SO_BROADCAST`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn broadcast(&self) -> io::Result<bool> {
        self.socket()?.broadcast()
    }

    /// Allows or forbids sending to broadcast addresses.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.socket()?.set_broadcast(on)
    }

    /// How many hops an IPv4 datagram may take (`IP_TTL`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn ttl(&self) -> io::Result<u32> {
        self.socket()?.ttl_v4()
    }

    /// Sets how many hops an IPv4 datagram may take: 1 to 255.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is out of range; those of setsockopt(2).
    pub fn set_ttl(&self, hops: u32) -> io::Result<()> {
        self.socket()?.set_ttl_v4(count(hops))
    }

    /// How many hops an IPv6 datagram may take (`IPV6_UNICAST_HOPS`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn unicast_hops_v6(&self) -> io::Result<u32> {
        self.socket()?.unicast_hops_v6()
    }

    /// Sets how many hops an IPv6 datagram may take: 0 to 255.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is out of range; those of setsockopt(2).
    pub fn set_unicast_hops_v6(&self, hops: u32) -> io::Result<()> {
        self.socket()?.set_unicast_hops_v6(count(hops))
    }

    /// The type of service that IPv4 datagrams are sent with (`IP_TOS`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn tos_v4(&self) -> io::Result<u32> {
        self.socket()?.tos_v4()
    }

    /// Sets the type of service that IPv4 datagrams are sent with: six bits of DSCP (RFC 2474), two of
    /// ECN. [`Transmit::ecn`](crate::Transmit::ecn) replaces the last two for one datagram.
    ///
    /// ```
    /// # ebbtide_net::doc_run(async {
    /// use ebbtide_net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_tos_v4(46 << 2)?; // expedited forwarding
    /// assert_eq!(socket.tos_v4()?, 184);
    /// # std::io::Result::Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is more than a byte; those of setsockopt(2).
    pub fn set_tos_v4(&self, tos: u32) -> io::Result<()> {
        self.socket()?.set_tos_v4(traffic_class(tos)?)?;
        self.endpoint().note_traffic_classes()
    }

    /// The traffic class that IPv6 datagrams are sent with (`IPV6_TCLASS`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn tclass_v6(&self) -> io::Result<u32> {
        self.socket()?.tclass_v6()
    }

    /// Sets the traffic class that IPv6 datagrams are sent with: see [`set_tos_v4`](Self::set_tos_v4).
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is more than a byte; those of setsockopt(2).
    pub fn set_tclass_v6(&self, tclass: u32) -> io::Result<()> {
        self.socket()?.set_tclass_v6(traffic_class(tclass)?)?;
        self.endpoint().note_traffic_classes()
    }

    /// The name of the network interface that the socket is bound to (`SO_BINDTODEVICE`), if any.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn device(&self) -> io::Result<Option<Vec<u8>>> {
        self.socket()?.device()
    }

    /// Binds the socket to a network interface by its name, `None` to none: it sends by that
    /// interface alone, and receives what comes in by it. To do so before it has an address:
    /// [`UdpOptions::bind_device`](crate::UdpOptions::bind_device).
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no such interface; `InvalidInput` if the name contains a zero byte or is
    /// longer than 15 bytes; `EPERM` without `CAP_NET_RAW`, if the socket is bound to an interface
    /// already (Linux 5.7).
    pub fn bind_device(&self, interface: Option<&[u8]>) -> io::Result<()> {
        bind_device(self.socket()?, interface)
    }

    /// Whether an IPv6 socket refuses IPv4 (`IPV6_V6ONLY`). To set it:
    /// [`UdpOptions::only_v6`](crate::UdpOptions::only_v6).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn only_v6(&self) -> io::Result<bool> {
        self.socket()?.only_v6()
    }

    /// The priority of what is sent (`SO_PRIORITY`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn priority(&self) -> io::Result<u32> {
        self.socket()?.priority()
    }

    /// Sets the priority of what is sent. More than 6 takes `CAP_NET_ADMIN`.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_priority(&self, priority: u32) -> io::Result<()> {
        self.socket()?.set_priority(priority)
    }

    /// The mark of what is sent, for routing and filters (`SO_MARK`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn mark(&self) -> io::Result<u32> {
        self.socket()?.mark()
    }

    /// Marks what is sent. Takes `CAP_NET_ADMIN`, or `CAP_NET_RAW` (Linux 5.17).
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.socket()?.set_mark(mark)
    }

    /// Joins an IPv4 multicast group on the interface with the address `interface`; unspecified
    /// lets the kernel choose.
    ///
    /// ```
    /// # ebbtide_net::doc_run(async {
    /// use std::net::Ipv4Addr;
    /// use ebbtide_net::UdpSocket;
    ///
    /// let group = Ipv4Addr::new(239, 255, 7, 7);
    /// let socket = UdpSocket::options().reuse_address(true).bind((group, 0))?;
    /// // Fails where no interface has multicast.
    /// let joined = socket.join_multicast_v4(group, Ipv4Addr::LOCALHOST);
    /// socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST)?;
    /// # let _ = joined;
    /// # std::io::Result::Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn join_multicast_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.socket()?.join_multicast_v4(&group, &interface)
    }

    /// Leaves an IPv4 multicast group.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn leave_multicast_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.socket()?.leave_multicast_v4(&group, &interface)
    }

    /// Joins an IPv4 multicast group on the interface with the index `interface`; 0 lets the kernel
    /// choose.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn join_multicast_v4_n(&self, group: Ipv4Addr, interface: u32) -> io::Result<()> {
        self.socket()?
            .join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(count(interface)))
    }

    /// Leaves an IPv4 multicast group that was joined by the index of an interface.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn leave_multicast_v4_n(&self, group: Ipv4Addr, interface: u32) -> io::Result<()> {
        self.socket()?
            .leave_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(count(interface)))
    }

    /// Joins an IPv6 multicast group on the interface with the index `interface`; 0 lets the kernel
    /// choose.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn join_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket()?.join_multicast_v6(group, count(interface))
    }

    /// Leaves an IPv6 multicast group.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn leave_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket()?.leave_multicast_v6(group, count(interface))
    }

    /// Joins an IPv4 multicast group for the datagrams of one `source` (source-specific multicast,
    /// RFC 4607), on the interface with the address `interface`; unspecified lets the kernel choose.
    /// Another source is joined by another call.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn join_ssm_v4(
        &self,
        source: Ipv4Addr,
        group: Ipv4Addr,
        interface: Ipv4Addr,
    ) -> io::Result<()> {
        self.socket()?.join_ssm_v4(&source, &group, &interface)
    }

    /// Leaves an IPv4 multicast group for one source.
    ///
    /// # Errors
    ///
    /// `EINVAL` or `EADDRNOTAVAIL` if it was not joined; those of setsockopt(2).
    pub fn leave_ssm_v4(
        &self,
        source: Ipv4Addr,
        group: Ipv4Addr,
        interface: Ipv4Addr,
    ) -> io::Result<()> {
        self.socket()?.leave_ssm_v4(&source, &group, &interface)
    }

    /// Joins an IPv6 multicast group for the datagrams of one `source`
    /// (`MCAST_JOIN_SOURCE_GROUP`), on the interface with the index `interface`; 0 lets the kernel
    /// choose.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn join_ssm_v6(
        &self,
        source: &Ipv6Addr,
        group: &Ipv6Addr,
        interface: u32,
    ) -> io::Result<()> {
        set_source_membership(self.socket()?, Membership::Join, *source, *group, count(interface))
    }

    /// Leaves an IPv6 multicast group for one source.
    ///
    /// # Errors
    ///
    /// `EINVAL` or `EADDRNOTAVAIL` if it was not joined; those of setsockopt(2).
    pub fn leave_ssm_v6(
        &self,
        source: &Ipv6Addr,
        group: &Ipv6Addr,
        interface: u32,
    ) -> io::Result<()> {
        set_source_membership(self.socket()?, Membership::Leave, *source, *group, count(interface))
    }

    /// The address of the interface that IPv4 multicast datagrams leave by (`IP_MULTICAST_IF`);
    /// unspecified if the kernel chooses.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_if_v4(&self) -> io::Result<Ipv4Addr> {
        self.socket()?.multicast_if_v4()
    }

    /// Sets the interface that IPv4 multicast datagrams leave by, by an address of it; unspecified lets
    /// the kernel choose.
    ///
    /// # Errors
    ///
    /// `AddrNotAvailable` if no interface has the address; those of setsockopt(2).
    pub fn set_multicast_if_v4(&self, interface: &Ipv4Addr) -> io::Result<()> {
        self.socket()?.set_multicast_if_v4(interface)
    }

    /// The index of the interface that IPv6 multicast datagrams leave by (`IPV6_MULTICAST_IF`); 0 if
    /// the kernel chooses.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_if_v6(&self) -> io::Result<u32> {
        self.socket()?.multicast_if_v6()
    }

    /// Sets the interface that IPv6 multicast datagrams leave by, by its index; 0 lets the kernel choose.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no such interface; those of setsockopt(2).
    pub fn set_multicast_if_v6(&self, interface: u32) -> io::Result<()> {
        self.socket()?.set_multicast_if_v6(count(interface))
    }

    /// Whether the host's own IPv4 multicast datagrams come back to it (`IP_MULTICAST_LOOP`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_loop_v4(&self) -> io::Result<bool> {
        self.socket()?.multicast_loop_v4()
    }

    /// Sets whether the host's own IPv4 multicast datagrams come back to it.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_multicast_loop_v4(&self, on: bool) -> io::Result<()> {
        self.socket()?.set_multicast_loop_v4(on)
    }

    /// Whether the host's own IPv6 multicast datagrams come back to it (`IPV6_MULTICAST_LOOP`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_loop_v6(&self) -> io::Result<bool> {
        self.socket()?.multicast_loop_v6()
    }

    /// Sets whether the host's own IPv6 multicast datagrams come back to it.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_multicast_loop_v6(&self, on: bool) -> io::Result<()> {
        self.socket()?.set_multicast_loop_v6(on)
    }

    /// How many hops an IPv4 multicast datagram may take (`IP_MULTICAST_TTL`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_ttl_v4(&self) -> io::Result<u32> {
        self.socket()?.multicast_ttl_v4()
    }

    /// Sets how many hops an IPv4 multicast datagram may take: 0 to 255.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is out of range; those of setsockopt(2).
    pub fn set_multicast_ttl_v4(&self, hops: u32) -> io::Result<()> {
        self.socket()?.set_multicast_ttl_v4(count(hops))
    }

    /// How many hops an IPv6 multicast datagram may take (`IPV6_MULTICAST_HOPS`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_hops_v6(&self) -> io::Result<u32> {
        self.socket()?.multicast_hops_v6()
    }

    /// Sets how many hops an IPv6 multicast datagram may take: 0 to 255.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is out of range; those of setsockopt(2).
    pub fn set_multicast_hops_v6(&self, hops: u32) -> io::Result<()> {
        self.socket()?.set_multicast_hops_v6(count(hops))
    }

    /// Whether datagrams to all IPv4 multicast groups that any socket of the host has joined are
    /// received (`IP_MULTICAST_ALL`, Linux 2.6.31); on unless set.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_all_v4(&self) -> io::Result<bool> {
        self.socket()?.multicast_all_v4()
    }

    /// Sets whether datagrams to all IPv4 multicast groups that any socket of the host has joined are
    /// received, or only those to the socket's own.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_multicast_all_v4(&self, on: bool) -> io::Result<()> {
        self.socket()?.set_multicast_all_v4(on)
    }

    /// Whether datagrams to all IPv6 multicast groups that any socket of the host has joined are
    /// received (`IPV6_MULTICAST_ALL`, Linux 4.20); on unless set.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_all_v6(&self) -> io::Result<bool> {
        self.socket()?.multicast_all_v6()
    }

    /// Sets whether datagrams to all IPv6 multicast groups that any socket of the host has joined are
    /// received, or only those to the socket's own.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_multicast_all_v6(&self, on: bool) -> io::Result<()> {
        self.socket()?.set_multicast_all_v6(on)
    }
}

impl Endpoint {
    /// Reads the traffic classes of the socket: a send with a congestion notification of its own keeps
    /// the rest of them.
    pub(super) fn note_traffic_classes(&self) -> io::Result<()> {
        let classes = traffic_classes(self.socket.kernel()?)?;
        self.send.traffic_classes.set(classes);
        Ok(())
    }
}
