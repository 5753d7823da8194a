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

/// Options of a [`UdpSocket`] that must be set before it is bound.
///
/// ```
/// # ebbtide_net::doc_run(async {
/// use ebbtide_net::UdpSocket;
///
/// let first = UdpSocket::options().reuse_port(true).bind("127.0.0.1:0")?;
/// let second = UdpSocket::options().reuse_port(true).bind(first.local_addr()?)?;
/// # let _ = second;
/// # std::io::Result::Ok(())
/// # });
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
    /// A member that is drained or dropped leaves its share to the others first, in this process and
    /// in others: none of what its peers send meanwhile is lost. To the kernel it is then connected
    /// to nobody. What is queued on it is received, it can still send, and its addresses are reported
    /// as before. When all members have left, senders are told that nobody is there
    /// (`ConnectionRefused`), and what they send is not counted as
    /// [`refused`](crate::SocketStats::refused).
    ///
    /// The peers of a member that leaves move to others. In a group of more than two, peers of those
    /// that stay may move as well, so that the order of one peer's datagrams holds for each member,
    /// not across members. For a program that chooses the member (`SO_ATTACH_REUSEPORT_CBPF`), the last
    /// member takes the place of the one that left.
    ///
    /// A member whose descriptor another process holds too stays connected to nobody there: let it
    /// be left ([`Exit::Leave`]).
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// Lets several sockets bind the same multicast address (`SO_REUSEADDR`).
    pub fn reuse_address(mut self, on: bool) -> Self {
        self.reuse_address = on;
        self
    }

    /// Whether an IPv6 socket refuses IPv4 (`IPV6_V6ONLY`); the system's default unless set.
    pub fn only_v6(mut self, on: bool) -> Self {
        self.only_v6 = Some(on);
        self
    }

    /// Asks for a receive buffer of `bytes`, at most `net.core.rmem_max`.
    pub fn recv_buffer_size(mut self, bytes: usize) -> Self {
        self.recv_buffer_size = Some(bytes);
        self
    }

    /// Asks for a send buffer of `bytes`, at most `net.core.wmem_max`.
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

    /// Binds the socket to a network interface, by its name, before it is bound to an address: see
    /// [`UdpSocket::bind_device`].
    ///
    /// ```
    /// # ebbtide_net::doc_run(async {
    /// use ebbtide_net::UdpSocket;
    ///
    /// let socket = UdpSocket::options().bind_device(b"lo").bind("127.0.0.1:0")?;
    /// assert_eq!(socket.device()?.as_deref(), Some(&b"lo"[..]));
    /// # std::io::Result::Ok(())
    /// # });
    /// ```
    pub fn bind_device(mut self, interface: &[u8]) -> Self {
        self.device = Some(interface.to_vec());
        self
    }

    /// Whether the kernel may hand datagrams over as trains: see [`UdpSocket::set_gro`]. Unless
    /// set, it may if the runtime's buffers are large enough.
    pub fn gro(mut self, on: bool) -> Self {
        self.gro = Some(on);
        self
    }

    /// What a drain does to the socket: see [`UdpSocket::set_exit`]. One that is to be left has GRO
    /// off unless it is set, because others who read it may not expect trains.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Asks for the congestion notification of each datagram: [`Datagram::ecn`].
    pub fn recv_ecn(mut self, on: bool) -> Self {
        self.wanted.ecn = on;
        self
    }

    /// Asks for the address that each datagram was sent to and the interface that it came in by:
    /// [`Datagram::dst_ip`], [`Datagram::interface_index`].
    pub fn recv_dst_ip(mut self, on: bool) -> Self {
        self.wanted.dst_ip = on;
        self
    }

    /// Asks for the time at which the kernel received each datagram: [`Datagram::timestamp`].
    pub fn recv_timestamp(mut self, on: bool) -> Self {
        self.wanted.timestamp = on;
        self
    }

    /// Asks for the kernel's count of what it had dropped before each datagram:
    /// [`Datagram::drop_count`].
    pub fn recv_drop_count(mut self, on: bool) -> Self {
        self.wanted.drop_count = on;
        self
    }

    /// Makes the socket. See [`UdpSocket::bind`].
    ///
    /// # Errors
    ///
    /// Those of [`UdpSocket::bind`], and of setting the options.
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

    /// Takes over a socket of std and sets the options on it. GRO stays as it is unless it was set.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if an option was asked for that works only before a socket is bound:
    /// `reuse_port`, `reuse_address`, `only_v6` and `freebind`. Those of [`UdpSocket::from_std`], and
    /// of setting the options.
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

    /// Sets the options that a bound socket takes as well.
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

    /// The kernel takes most of these on a bound socket and does nothing.
    fn check_not_before_bind(&self) -> io::Result<()> {
        let asked = [self.reuse_port, self.reuse_address, self.only_v6.is_some(), self.freebind];
        if asked.contains(&true) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "reuse_port, reuse_address, only_v6 and freebind must be set before a socket is bound",
            ));
        }
        Ok(())
    }
}

/// Opens a socket of whichever kernel.
pub(crate) fn open_on(
    socket: crate::sys::socket::Socket,
    layout: Layout,
    prepare: impl FnOnce(&Endpoint) -> io::Result<()>,
) -> io::Result<UdpSocket> {
    Ok(UdpSocket::new(Endpoint::open(socket, Family::Internet, layout, prepare)?))
}
