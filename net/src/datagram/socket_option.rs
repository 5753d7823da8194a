//! The options of a [`UdpSocket`] that can be set at any time. Options for before the bind are in
//! [`UdpOptions`](crate::UdpOptions).
//!
//! The names are those of std, tokio and socket2. The kernel refuses an IPv6 option on an IPv4
//! socket (`ENOPROTOOPT`). An IPv4 option on an IPv6 socket applies to its IPv4 datagrams.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::InterfaceIndexOrAddress;

use super::endpoint::Endpoint;
use super::udp::UdpSocket;
use crate::sys::option::{
    Membership, bind_device, count, set_source_membership, traffic_class, traffic_classes,
};

/// Socket options. Getters fail with the errors of getsockopt(2), and setters with those of
/// setsockopt(2).
///
/// The kernel refuses an IPv6 option on an IPv4 socket (`ENOPROTOOPT`). An IPv4 option on an IPv6
/// socket applies to its IPv4 datagrams.
impl UdpSocket {
    /// Whether the socket may send to broadcast addresses (`SO_BROADCAST`).
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

    /// The maximum number of hops of IPv4 datagrams (`IP_TTL`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn ttl(&self) -> io::Result<u32> {
        self.socket()?.ttl_v4()
    }

    /// Sets the maximum number of hops of IPv4 datagrams: 1 to 255.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `hops` is out of range. Others of setsockopt(2).
    pub fn set_ttl(&self, hops: u32) -> io::Result<()> {
        self.socket()?.set_ttl_v4(count(hops))
    }

    /// The maximum number of hops of IPv6 datagrams (`IPV6_UNICAST_HOPS`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn unicast_hops_v6(&self) -> io::Result<u32> {
        self.socket()?.unicast_hops_v6()
    }

    /// Sets the maximum number of hops of IPv6 datagrams: 0 to 255.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `hops` is out of range. Others of setsockopt(2).
    pub fn set_unicast_hops_v6(&self, hops: u32) -> io::Result<()> {
        self.socket()?.set_unicast_hops_v6(count(hops))
    }

    /// The type of service of IPv4 datagrams (`IP_TOS`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn tos_v4(&self) -> io::Result<u32> {
        self.socket()?.tos_v4()
    }

    /// Sets the type of service of IPv4 datagrams: six bits of DSCP (RFC 2474), then two of ECN.
    /// [`Transmit::ecn`](crate::Transmit::ecn) replaces the last two for one datagram.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_tos_v4(46 << 2)?; // expedited forwarding
    /// assert_eq!(socket.tos_v4()?, 184);
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// `EINVAL` if `tos` is more than a byte. Others of setsockopt(2).
    pub fn set_tos_v4(&self, tos: u32) -> io::Result<()> {
        self.socket()?.set_tos_v4(traffic_class(tos)?)?;
        self.endpoint().note_traffic_classes()
    }

    /// The traffic class of IPv6 datagrams (`IPV6_TCLASS`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn tclass_v6(&self) -> io::Result<u32> {
        self.socket()?.tclass_v6()
    }

    /// Sets the traffic class of IPv6 datagrams: see [`set_tos_v4`](Self::set_tos_v4).
    ///
    /// # Errors
    ///
    /// `EINVAL` if `tclass` is more than a byte. Others of setsockopt(2).
    pub fn set_tclass_v6(&self, tclass: u32) -> io::Result<()> {
        self.socket()?.set_tclass_v6(traffic_class(tclass)?)?;
        self.endpoint().note_traffic_classes()
    }

    /// The name of the network interface to which the socket is bound (`SO_BINDTODEVICE`), if any.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn device(&self) -> io::Result<Option<Vec<u8>>> {
        self.socket()?.device()
    }

    /// Binds the socket to a network interface, by name. The socket then sends and receives only
    /// through that interface. `None` removes the binding. To bind to an interface before the
    /// socket has an address, use [`UdpOptions::bind_device`](crate::UdpOptions::bind_device).
    ///
    /// # Errors
    ///
    /// * `ENODEV` if there is no such interface.
    /// * `InvalidInput` if the name contains a zero byte or is longer than 15 bytes.
    /// * `EPERM` without `CAP_NET_RAW`, if the socket is already bound to an interface (Linux 5.7).
    pub fn bind_device(&self, interface: Option<&[u8]>) -> io::Result<()> {
        bind_device(self.socket()?, interface)
    }

    /// Whether an IPv6 socket refuses IPv4 (`IPV6_V6ONLY`). To set it, use
    /// [`UdpOptions::only_v6`](crate::UdpOptions::only_v6).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn only_v6(&self) -> io::Result<bool> {
        self.socket()?.only_v6()
    }

    /// The priority of sent datagrams (`SO_PRIORITY`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn priority(&self) -> io::Result<u32> {
        self.socket()?.priority()
    }

    /// Sets the priority of sent datagrams. More than 6 requires `CAP_NET_ADMIN`.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_priority(&self, priority: u32) -> io::Result<()> {
        self.socket()?.set_priority(priority)
    }

    /// The mark of sent datagrams, for routing and filters (`SO_MARK`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn mark(&self) -> io::Result<u32> {
        self.socket()?.mark()
    }

    /// Sets the mark of sent datagrams. Requires `CAP_NET_ADMIN`, or `CAP_NET_RAW` (Linux 5.17).
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.socket()?.set_mark(mark)
    }

    /// Joins an IPv4 multicast group on the interface with the address `interface`. If it is
    /// unspecified, the kernel chooses.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use std::net::Ipv4Addr;
    /// use ebbtide::net::UdpSocket;
    ///
    /// let group = Ipv4Addr::new(239, 255, 7, 7);
    /// let socket = UdpSocket::options().reuse_address(true).bind((group, 0))?;
    /// if let Err(error) = socket.join_multicast_v4(group, Ipv4Addr::LOCALHOST) {
    ///     println!("no interface for multicast: {error}");
    /// }
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
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

    /// Joins an IPv4 multicast group on the interface with the index `interface`. If it is 0, the
    /// kernel chooses.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn join_multicast_v4_n(&self, group: Ipv4Addr, interface: u32) -> io::Result<()> {
        self.socket()?
            .join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(count(interface)))
    }

    /// Leaves an IPv4 multicast group on the interface with the index `interface`.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn leave_multicast_v4_n(&self, group: Ipv4Addr, interface: u32) -> io::Result<()> {
        self.socket()?
            .leave_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(count(interface)))
    }

    /// Joins an IPv6 multicast group on the interface with the index `interface`. If it is 0, the
    /// kernel chooses.
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
    /// RFC 4607). `interface` is the address of the interface. If it is unspecified, the kernel
    /// chooses.
    ///
    /// For each further source, call it again.
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
    /// `EINVAL` or `EADDRNOTAVAIL` if it was not joined. Others of setsockopt(2).
    pub fn leave_ssm_v4(
        &self,
        source: Ipv4Addr,
        group: Ipv4Addr,
        interface: Ipv4Addr,
    ) -> io::Result<()> {
        self.socket()?.leave_ssm_v4(&source, &group, &interface)
    }

    /// Joins an IPv6 multicast group for the datagrams of one `source` (`MCAST_JOIN_SOURCE_GROUP`).
    /// `interface` is the index of the interface. If it is 0, the kernel chooses.
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
    /// `EINVAL` or `EADDRNOTAVAIL` if it was not joined. Others of setsockopt(2).
    pub fn leave_ssm_v6(
        &self,
        source: &Ipv6Addr,
        group: &Ipv6Addr,
        interface: u32,
    ) -> io::Result<()> {
        set_source_membership(self.socket()?, Membership::Leave, *source, *group, count(interface))
    }

    /// The address of the interface for outgoing IPv4 multicast datagrams (`IP_MULTICAST_IF`). It
    /// is unspecified if the kernel chooses.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_if_v4(&self) -> io::Result<Ipv4Addr> {
        self.socket()?.multicast_if_v4()
    }

    /// Sets the interface for outgoing IPv4 multicast datagrams, by its address. If it is
    /// unspecified, the kernel chooses.
    ///
    /// # Errors
    ///
    /// `AddrNotAvailable` if no interface has the address. Others of setsockopt(2).
    pub fn set_multicast_if_v4(&self, interface: &Ipv4Addr) -> io::Result<()> {
        self.socket()?.set_multicast_if_v4(interface)
    }

    /// The index of the interface for outgoing IPv6 multicast datagrams (`IPV6_MULTICAST_IF`). It
    /// is 0 if the kernel chooses.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_if_v6(&self) -> io::Result<u32> {
        self.socket()?.multicast_if_v6()
    }

    /// Sets the interface for outgoing IPv6 multicast datagrams, by its index. If it is 0, the
    /// kernel chooses.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no such interface. Others of setsockopt(2).
    pub fn set_multicast_if_v6(&self, interface: u32) -> io::Result<()> {
        self.socket()?.set_multicast_if_v6(count(interface))
    }

    /// Whether this host receives its own IPv4 multicast datagrams (`IP_MULTICAST_LOOP`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_loop_v4(&self) -> io::Result<bool> {
        self.socket()?.multicast_loop_v4()
    }

    /// Sets whether this host receives its own IPv4 multicast datagrams.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_multicast_loop_v4(&self, on: bool) -> io::Result<()> {
        self.socket()?.set_multicast_loop_v4(on)
    }

    /// Whether this host receives its own IPv6 multicast datagrams (`IPV6_MULTICAST_LOOP`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_loop_v6(&self) -> io::Result<bool> {
        self.socket()?.multicast_loop_v6()
    }

    /// Sets whether this host receives its own IPv6 multicast datagrams.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_multicast_loop_v6(&self, on: bool) -> io::Result<()> {
        self.socket()?.set_multicast_loop_v6(on)
    }

    /// The maximum number of hops of IPv4 multicast datagrams (`IP_MULTICAST_TTL`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_ttl_v4(&self) -> io::Result<u32> {
        self.socket()?.multicast_ttl_v4()
    }

    /// Sets the maximum number of hops of IPv4 multicast datagrams: 0 to 255.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `hops` is out of range. Others of setsockopt(2).
    pub fn set_multicast_ttl_v4(&self, hops: u32) -> io::Result<()> {
        self.socket()?.set_multicast_ttl_v4(count(hops))
    }

    /// The maximum number of hops of IPv6 multicast datagrams (`IPV6_MULTICAST_HOPS`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_hops_v6(&self) -> io::Result<u32> {
        self.socket()?.multicast_hops_v6()
    }

    /// Sets the maximum number of hops of IPv6 multicast datagrams: 0 to 255.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `hops` is out of range. Others of setsockopt(2).
    pub fn set_multicast_hops_v6(&self, hops: u32) -> io::Result<()> {
        self.socket()?.set_multicast_hops_v6(count(hops))
    }

    /// Whether the socket receives datagrams to every IPv4 multicast group that any socket of the
    /// host has joined (`IP_MULTICAST_ALL`, Linux 2.6.31). On by default.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_all_v4(&self) -> io::Result<bool> {
        self.socket()?.multicast_all_v4()
    }

    /// Sets whether the socket receives datagrams to every IPv4 multicast group that any socket of
    /// the host has joined, or only to its own groups.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_multicast_all_v4(&self, on: bool) -> io::Result<()> {
        self.socket()?.set_multicast_all_v4(on)
    }

    /// Whether the socket receives datagrams to every IPv6 multicast group that any socket of the
    /// host has joined (`IPV6_MULTICAST_ALL`, Linux 4.20). On by default.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn multicast_all_v6(&self) -> io::Result<bool> {
        self.socket()?.multicast_all_v6()
    }

    /// Sets whether the socket receives datagrams to every IPv6 multicast group that any socket of
    /// the host has joined, or only to its own groups.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_multicast_all_v6(&self, on: bool) -> io::Result<()> {
        self.socket()?.set_multicast_all_v6(on)
    }
}

impl Endpoint {
    /// Stores the traffic classes of the socket. A send with an ECN codepoint of its own keeps the
    /// rest of them.
    pub(super) fn note_traffic_classes(&self) -> io::Result<()> {
        let classes = traffic_classes(self.socket.kernel()?)?;
        self.send.traffic_classes.set(classes);
        Ok(())
    }
}
