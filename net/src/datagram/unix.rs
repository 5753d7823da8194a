//! [`UnixDatagram`].

use std::io;
use std::os::unix::net;
use std::path::Path;

use ebbtide_runtime::Exit;
use ebbtide_runtime::driver::Layout;
use socket2::{Domain, SockAddr, Socket, Type};

use super::endpoint::Endpoint;
use super::message::Datagram;
use super::send::Sending;
use super::socket::{DatagramSocket, is_datagram_socket};
use crate::sys::address::{Address, UNIX_NAME_LEN, from_path, from_unix_addr};
use crate::sys::adopted::check_adopted;
use crate::sys::socket::Family;

/// The address of a Unix socket: a path, an abstract name, or none.
pub type UnixAddr = net::SocketAddr;

/// A Unix datagram socket.
///
/// Receiving, draining and what is counted are methods of [`DatagramSocket`], which it dereferences
/// to, as a [`UdpSocket`](crate::UdpSocket) does.
///
/// Unlike UDP it is reliable: a sender whose peer's queue is full waits (`send`) or is told so
/// (`try_send`).
///
/// ```
/// # ebbtide_net::doc_run(async {
/// use ebbtide_net::UnixDatagram;
///
/// let (left, right) = UnixDatagram::pair()?;
/// left.send(b"hello").await?;
/// assert_eq!(&right.recv().await?.expect("not drained")[..], b"hello");
/// # std::io::Result::Ok(())
/// # });
/// ```
pub struct UnixDatagram(DatagramSocket<UnixAddr>);

is_datagram_socket!(UnixDatagram, UnixAddr);

impl UnixDatagram {
    /// A socket bound to a path, which must not exist yet. Nothing removes the path afterwards.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if the path exists: if no program uses it, remove it first. `InvalidInput` if the
    /// path is empty, too long or contains a zero byte. Else those of bind(2), unchanged; that there
    /// is no runtime on this thread, or that it is shutting down.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        if path.as_os_str().is_empty() {
            // The kernel would invent a name.
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot bind an empty path"));
        }
        let socket = new_socket()?;
        socket.bind(&from_path(path)?)?;
        open(socket)
    }

    /// A socket bound to any kind of Unix address, for example an abstract name.
    ///
    /// ```
    /// # ebbtide_net::doc_run(async {
    /// use std::os::linux::net::SocketAddrExt;
    /// use ebbtide_net::{UnixAddr, UnixDatagram};
    ///
    /// let name = format!("ebbtide-doc-{}", std::process::id());
    /// let socket = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(name)?)?;
    /// # let _ = socket;
    /// # std::io::Result::Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind).
    pub fn bind_addr(addr: &UnixAddr) -> io::Result<Self> {
        let socket = new_socket()?;
        socket.bind(&from_unix_addr(addr)?)?;
        open(socket)
    }

    /// A socket without a name: it can send, and receive from a peer that it is connected to and
    /// that is connected to it.
    ///
    /// # Errors
    ///
    /// Those of socket(2); that there is no runtime on this thread, or that it is shutting down.
    pub fn unbound() -> io::Result<Self> {
        open(new_socket()?)
    }

    /// Two sockets that are connected to each other.
    ///
    /// # Errors
    ///
    /// Those of [`unbound`](Self::unbound).
    pub fn pair() -> io::Result<(Self, Self)> {
        let (left, right) = Socket::pair(Domain::UNIX, Type::DGRAM, None)?;
        Ok((open(left)?, open(right)?))
    }

    /// Takes over a socket of std. It need not be non-blocking; it is made so.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the descriptor inside is not a Unix datagram socket, but a stream, for
    /// example; `ENOTSOCK` if it is no socket. That there is no runtime on this thread, or that it is
    /// shutting down. The descriptor is closed then.
    pub fn from_std(socket: net::UnixDatagram) -> io::Result<Self> {
        Self::adopt(socket.into(), Exit::Seal)
    }

    /// The same, with what a drain does to it.
    pub(crate) fn adopt(socket: Socket, exit: Exit) -> io::Result<Self> {
        check_adopted(&socket, Family::Unix)?;
        open_with(crate::sys::socket::Socket::new(socket)?, exit)
    }

    /// Gives the socket back, non-blocking, together with the datagrams that were taken from it and
    /// not received: they come before anything that is still queued in the kernel. A socket that
    /// was drained stays sealed: that cannot be undone.
    ///
    /// # Errors
    ///
    /// That the runtime has ended, or that no descriptor is left; `TimedOut` if the kernel does not
    /// give the receive back, for want of memory. The socket is then dropped.
    pub fn into_std(self) -> io::Result<(net::UnixDatagram, Vec<Datagram<UnixAddr>>)> {
        let (socket, taken) = self.0.detach()?;
        Ok((socket.into(), taken))
    }

    /// Sets the peer of [`send`](Self::send) by its path; from then on only the peer can send to
    /// this socket.
    ///
    /// A socket is connected once: when a Unix datagram socket changes its peer, Linux throws away
    /// what is queued on it. Make a new socket instead.
    ///
    /// # Errors
    ///
    /// `Unsupported` if it is connected; `InvalidInput` if the path is too long or contains a zero
    /// byte; else those of connect(2), unchanged.
    pub fn connect(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.connect_first(&from_path(path.as_ref())?)
    }

    /// Sets the peer of [`send`](Self::send) by any kind of Unix address. Otherwise as
    /// [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect).
    pub fn connect_addr(&self, addr: &UnixAddr) -> io::Result<()> {
        self.connect_first(&from_unix_addr(addr)?)
    }

    fn connect_first(&self, address: &SockAddr) -> io::Result<()> {
        let socket = self.socket()?;
        if socket.peer_addr().is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it is connected already, and changing the peer of a Unix datagram socket throws \
                 away what is queued on it: make a new socket",
            ));
        }
        socket.connect(address)
    }

    /// The address that the socket is bound to; unnamed if it is not.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<UnixAddr> {
        Ok(UnixAddr::from_raw(crate::sys::socket::raw_name(&self.socket()?.local_addr()?)))
    }

    /// The address that the socket is connected to.
    ///
    /// # Errors
    ///
    /// `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<UnixAddr> {
        Ok(UnixAddr::from_raw(crate::sys::socket::raw_name(&self.socket()?.peer_addr()?)))
    }

    /// Sends `payload` to the connected peer, in one datagram; gives its length. Waits while the
    /// peer's queue is full (`net.unix.max_dgram_qlen`).
    ///
    /// # Errors
    ///
    /// `EMSGSIZE` if it is larger than the send buffer; `ConnectionRefused` if the peer is gone;
    /// `BrokenPipe` if it has been sealed; else those of sendmsg(2).
    ///
    /// # Cancellation
    ///
    /// A send that is dropped while it waits for room does not take place.
    pub fn send<'a>(&'a self, payload: &'a [u8]) -> Sending<'a> {
        self.send_raw(payload, Ok(None))
    }

    /// Sends `payload` to the socket at `path`. Otherwise as [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send); `NotFound` if there is no such path.
    ///
    /// # Cancellation
    ///
    /// As [`send`](Self::send).
    pub fn send_to<'a>(&'a self, payload: &'a [u8], path: impl AsRef<Path>) -> Sending<'a> {
        self.send_raw(payload, from_path(path.as_ref()).map(Some))
    }

    /// Sends `payload` to any kind of Unix address. Otherwise as [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send).
    ///
    /// # Cancellation
    ///
    /// As [`send`](Self::send).
    pub fn send_to_addr<'a>(&'a self, payload: &'a [u8], addr: &UnixAddr) -> Sending<'a> {
        self.send_raw(payload, from_unix_addr(addr).map(Some))
    }

    /// Sends `payload` to the connected peer if there is room now; else wait for
    /// [`writable`](DatagramSocket::writable).
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the peer's queue is full; else those of [`send`](Self::send).
    pub fn try_send(&self, payload: &[u8]) -> io::Result<usize> {
        self.try_send_raw(payload, None)
    }

    /// Sends `payload` to the socket at `path` if there is room now.
    ///
    /// Room in an unconnected peer's queue cannot be waited for with
    /// [`writable`](DatagramSocket::writable), which knows only the connected one: use
    /// [`send_to`](Self::send_to).
    ///
    /// # Errors
    ///
    /// Those of [`try_send`](Self::try_send); `NotFound` if there is no such path.
    pub fn try_send_to(&self, payload: &[u8], path: impl AsRef<Path>) -> io::Result<usize> {
        self.try_send_raw(payload, Some(&from_path(path.as_ref())?))
    }
}

fn open(socket: Socket) -> io::Result<UnixDatagram> {
    open_on(crate::sys::socket::Socket::new(socket)?)
}

/// Opens a socket of whichever kernel.
pub(crate) fn open_on(socket: crate::sys::socket::Socket) -> io::Result<UnixDatagram> {
    open_with(socket, Exit::Seal)
}

fn open_with(socket: crate::sys::socket::Socket, exit: Exit) -> io::Result<UnixDatagram> {
    let layout = Layout::new(UNIX_NAME_LEN, 0);
    let endpoint =
        Endpoint::open(socket, Family::Unix, layout, |endpoint| endpoint.set_exit(exit))?;
    Ok(UnixDatagram::new(endpoint))
}

fn new_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::DGRAM, None)
}
