//! [`UdpOptions`]: how a UDP socket is made.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use ebbtide_runtime::Exit;
use ebbtide_runtime::driver::Layout;
use socket2::{Domain, Protocol, Socket, Type};

use super::endpoint::Endpoint;
use super::receive::GroWish;
use super::udp::{UdpSocket, each_address};
use crate::sys::address::{INTERNET_NAME_LEN, IPV4_NAME_LEN};
use crate::sys::adopted::check_adopted;
use crate::sys::control::Wanted;
use crate::sys::option::{bind_device, request, size};
use crate::sys::socket::Family;

/// Builder for a [`UdpSocket`] with options that must be set before it is bound.
/// [`UdpSocket::options`] returns one.
///
/// ```
/// # ebbtide::run(async {
/// use ebbtide::net::UdpSocket;
///
/// let first = UdpSocket::options().reuse_port(true).bind("127.0.0.1:0")?;
/// let second = UdpSocket::options().reuse_port(true).bind(first.local_addr()?)?;
/// # let _ = second;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct UdpOptions {
    reuse_port: bool,
    reuse_address: bool,
    only_v6: Option<bool>,
    recv_buffer_size: Option<usize>,
    send_buffer_size: Option<usize>,
    freebind: bool,
    device: Option<Vec<u8>>,
    gro: Option<bool>,
    exit: Exit,
    wanted: Wanted,
}

impl UdpOptions {
    /// Lets several sockets bind the same address and share its datagrams (`SO_REUSEPORT`).
    ///
    /// A member of such a group that is drained or dropped first leaves its share to the other
    /// members, of this process and of others. What its peers send meanwhile is not lost. To do so,
    /// the member is connected to an address from which nobody sends. What is queued on it can be
    /// received, it can still send, and `local_addr` and `peer_addr` return what they did before.
    ///
    /// When all members have left, senders get `ConnectionRefused`. What they send is not counted
    /// as [`refused`](crate::SocketStats::refused).
    ///
    /// The peers of a member that leaves move to other members. In a group of more than two, peers
    /// of the members that stay may move as well. So the datagrams of one peer are in order within
    /// a member, but not across members. For a program that chooses the member
    /// (`SO_ATTACH_REUSEPORT_CBPF`), the last member takes the place of the one that left.
    ///
    /// If another process holds the descriptor of a member too, the member stays connected to
    /// nobody there. Set [`Exit::Leave`] for it.
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// Lets several sockets bind the same multicast address (`SO_REUSEADDR`).
    pub fn reuse_address(mut self, on: bool) -> Self {
        self.reuse_address = on;
        self
    }

    /// Whether an IPv6 socket refuses IPv4 (`IPV6_V6ONLY`). The default is that of the system.
    pub fn only_v6(mut self, on: bool) -> Self {
        self.only_v6 = Some(on);
        self
    }

    /// Requests a receive buffer of `bytes`. The kernel grants at most `net.core.rmem_max`.
    pub fn recv_buffer_size(mut self, bytes: usize) -> Self {
        self.recv_buffer_size = Some(bytes);
        self
    }

    /// Requests a send buffer of `bytes`. The kernel grants at most `net.core.wmem_max`.
    pub fn send_buffer_size(mut self, bytes: usize) -> Self {
        self.send_buffer_size = Some(bytes);
        self
    }

    /// Lets the socket bind an address that no interface has, or not yet (`IP_FREEBIND`,
    /// `IPV6_FREEBIND`).
    pub fn freebind(mut self, on: bool) -> Self {
        self.freebind = on;
        self
    }

    /// Binds the socket to a network interface, by name, before it is bound to an address: see
    /// [`UdpSocket::bind_device`].
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::options().bind_device(b"lo").bind("127.0.0.1:0")?;
    /// assert_eq!(socket.device()?.as_deref(), Some(&b"lo"[..]));
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn bind_device(mut self, interface: &[u8]) -> Self {
        self.device = Some(interface.to_vec());
        self
    }

    /// Whether the kernel may queue trains: see [`UdpSocket::set_gro`]. By default it may if the
    /// runtime's buffers are large enough.
    pub fn gro(mut self, on: bool) -> Self {
        self.gro = Some(on);
        self
    }

    /// What a drain does to the socket: see
    /// [`UdpSocket::set_exit`](super::DatagramSocket::set_exit).
    ///
    /// With [`Exit::Leave`], GRO is off by default, because others who read the socket may not
    /// expect trains.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Requests the congestion notification of each datagram:
    /// [`Datagram::ecn`](crate::Datagram::ecn).
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::{EcnCodepoint, Transmit, UdpSocket};
    ///
    /// let socket = UdpSocket::options().recv_ecn(true).bind("127.0.0.1:0")?;
    /// let marked = Transmit::to(b"hello", socket.local_addr()?).ecn(EcnCodepoint::Ce);
    /// socket.transmit(marked).await?;
    /// let datagram = socket.recv().await?.expect("not drained");
    /// assert_eq!(datagram.ecn(), Some(EcnCodepoint::Ce));
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn recv_ecn(mut self, on: bool) -> Self {
        self.wanted.ecn = on;
        self
    }

    /// Requests the address to which each datagram was sent, and the interface on which it arrived:
    /// [`Datagram::dst_ip`](crate::Datagram::dst_ip),
    /// [`Datagram::interface_index`](crate::Datagram::interface_index).
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::options().recv_dst_ip(true).bind("0.0.0.0:0")?;
    /// socket.send_to(b"hello", ("127.0.0.1", socket.local_addr()?.port())).await?;
    /// let datagram = socket.recv().await?.expect("not drained");
    /// assert_eq!(datagram.dst_ip(), Some("127.0.0.1".parse().unwrap()));
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn recv_dst_ip(mut self, on: bool) -> Self {
        self.wanted.dst_ip = on;
        self
    }

    /// Requests the time at which the kernel received each datagram:
    /// [`Datagram::timestamp`](crate::Datagram::timestamp).
    pub fn recv_timestamp(mut self, on: bool) -> Self {
        self.wanted.timestamp = on;
        self
    }

    /// Requests the number of messages that the kernel had dropped before each datagram:
    /// [`Datagram::drop_count`](crate::Datagram::drop_count).
    pub fn recv_drop_count(mut self, on: bool) -> Self {
        self.wanted.drop_count = on;
        self
    }

    /// Opens a socket with these options and binds it: see [`UdpSocket::bind`].
    ///
    /// # Errors
    ///
    /// Those of [`UdpSocket::bind`] and of setting the options.
    pub fn bind(&self, addr: impl ToSocketAddrs) -> io::Result<UdpSocket> {
        let bound = each_address(addr, |addr| self.bind_one(addr))?;
        let gro = match self.gro {
            None if self.exit == Exit::Leave => GroWish::Off,
            None => GroWish::IfPossible,
            Some(true) => GroWish::On,
            Some(false) => GroWish::Off,
        };
        self.open(bound, gro)
    }

    /// Takes over a std socket and sets the options on it: see [`UdpSocket::from_std`]. GRO stays
    /// as it is unless [`gro`](Self::gro) was called.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let bound = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// let socket = UdpSocket::options().gro(false).from_std(bound)?;
    /// assert!(!socket.gro());
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// * `InvalidInput` if one of `reuse_port`, `reuse_address`, `only_v6` and `freebind` was set:
    ///   they work only before a socket is bound.
    /// * Those of [`UdpSocket::from_std`] and of setting the options.
    pub fn from_std(&self, socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        let socket = Socket::from(socket);
        check_adopted(&socket, Family::Internet)?;
        self.check_not_before_bind()?;
        self.set_any_time(&socket)?;
        match self.gro {
            Some(true) => self.open(socket, GroWish::On),
            Some(false) => {
                let socket = self.open(socket, GroWish::AsItIs)?;
                socket.set_gro(false)?;
                Ok(socket)
            }
            None => self.open(socket, GroWish::AsItIs),
        }
    }

    fn open(&self, socket: Socket, gro: GroWish) -> io::Result<UdpSocket> {
        let name = match socket.domain()? {
            Domain::IPV4 => IPV4_NAME_LEN,
            _ => INTERNET_NAME_LEN,
        };
        let layout = Layout::aligned(name, Wanted::SPACE_FOR_ALL);
        open_on(crate::sys::socket::Socket::new(socket)?, layout, |endpoint| {
            endpoint.set_exit(self.exit)?;
            request(endpoint.socket.kernel()?, self.wanted)?;
            endpoint.note_traffic_classes()?;
            endpoint.receive.wish_gro(&endpoint.socket, gro)
        })
    }

    fn bind_one(&self, addr: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(self.reuse_port)?;
        socket.set_reuse_address(self.reuse_address)?;
        if let Some(on) = self.only_v6
            && addr.is_ipv6()
        {
            socket.set_only_v6(on)?;
        }
        match addr {
            SocketAddr::V4(_) if self.freebind => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) if self.freebind => socket.set_freebind_v6(true)?,
            _ => {}
        }
        self.set_any_time(&socket)?;
        socket.bind(&addr.into())?;
        Ok(socket)
    }

    /// Sets the options that also work on a bound socket.
    fn set_any_time(&self, socket: &Socket) -> io::Result<()> {
        if let Some(bytes) = self.recv_buffer_size {
            socket.set_recv_buffer_size(size(bytes))?;
        }
        if let Some(bytes) = self.send_buffer_size {
            socket.set_send_buffer_size(size(bytes))?;
        }
        if let Some(device) = &self.device {
            bind_device(socket, Some(device))?;
        }
        Ok(())
    }

    /// Refuses options that work only before the bind. On a bound socket, the kernel accepts most
    /// of them and does nothing.
    fn check_not_before_bind(&self) -> io::Result<()> {
        let asked = [self.reuse_port, self.reuse_address, self.only_v6.is_some(), self.freebind];
        if asked.contains(&true) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "reuse_port, reuse_address, only_v6 and freebind only work before the bind",
            ));
        }
        Ok(())
    }
}

/// Opens a socket of the kernel, or of one in memory.
pub(crate) fn open_on(
    socket: crate::sys::socket::Socket,
    layout: Layout,
    prepare: impl FnOnce(&Endpoint) -> io::Result<()>,
) -> io::Result<UdpSocket> {
    Ok(UdpSocket::new(Endpoint::open(socket, Family::Internet, layout, prepare)?))
}
