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
/// | To | use |
/// |---|---|
/// | open it | [`bind`], [`bind_addr`], [`pair`], [`unbound`], [`from_std`] |
/// | receive | [`recv`], [`recv_from`], [`recv_batch`], [`incoming`], [`try_recv`] |
/// | send | [`send_to`], [`send_to_addr`], [`send`] to the peer of [`connect`], [`try_send`] |
/// | end without loss | [`drain`], [`set_exit`], [`into_std`] |
/// | see what happened | [`stats`] |
///
/// Methods that a [`UdpSocket`](crate::UdpSocket) has too are those of [`DatagramSocket`], to which
/// this type dereferences. Its page says what happens to a datagram when a future, the socket or
/// the program ends.
///
/// Unlike UDP, Unix datagrams are reliable. If the peer's queue is full, `send` waits, and
/// `try_send` returns `WouldBlock`.
///
/// ```
/// # ebbtide::run(async {
/// use ebbtide::net::UnixDatagram;
///
/// let (left, right) = UnixDatagram::pair()?;
/// left.send(b"hello").await?;
/// assert_eq!(&right.recv().await?.expect("not drained")[..], b"hello");
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
///
/// [`bind`]: Self::bind
/// [`bind_addr`]: Self::bind_addr
/// [`pair`]: Self::pair
/// [`unbound`]: Self::unbound
/// [`from_std`]: Self::from_std
/// [`recv`]: DatagramSocket::recv
/// [`recv_from`]: DatagramSocket::recv_from
/// [`recv_batch`]: DatagramSocket::recv_batch
/// [`incoming`]: DatagramSocket::incoming
/// [`try_recv`]: DatagramSocket::try_recv
/// [`send_to`]: Self::send_to
/// [`send_to_addr`]: Self::send_to_addr
/// [`send`]: Self::send
/// [`connect`]: Self::connect
/// [`try_send`]: Self::try_send
/// [`drain`]: DatagramSocket::drain
/// [`set_exit`]: DatagramSocket::set_exit
/// [`into_std`]: Self::into_std
/// [`stats`]: DatagramSocket::stats
pub struct UnixDatagram(DatagramSocket<UnixAddr>);

is_datagram_socket!(UnixDatagram, UnixAddr);

impl UnixDatagram {
    /// Opens a socket and binds it to a path. The path must not exist, and nothing removes it
    /// afterwards.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UnixDatagram;
    ///
    /// let path = std::env::temp_dir().join(format!("ebbtide-doc-{}.sock", std::process::id()));
    /// let socket = UnixDatagram::bind(&path)?;
    /// assert_eq!(socket.local_addr()?.as_pathname(), Some(&*path));
    /// std::fs::remove_file(&path)?;
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// * `AddrInUse` if the path exists. If no program uses it, remove it first.
    /// * `InvalidInput` if the path is empty, too long, or contains a zero byte.
    /// * Others of bind(2), unchanged.
    /// * There is no runtime on this thread, or it is shutting down.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        if path.as_os_str().is_empty() {
            // The kernel would choose a name.
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot bind an empty path"));
        }
        let socket = new_socket()?;
        socket.bind(&from_path(path)?)?;
        open(socket)
    }

    /// Opens a socket and binds it to any kind of Unix address, for example an abstract name.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use std::os::linux::net::SocketAddrExt;
    /// use ebbtide::net::{UnixAddr, UnixDatagram};
    ///
    /// let name = format!("ebbtide-doc-{}", std::process::id());
    /// let socket = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(name)?)?;
    /// # let _ = socket;
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
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

    /// Opens a socket without a name. It can send. It receives only from a peer to which it is
    /// connected and which is connected to it.
    ///
    /// # Errors
    ///
    /// * Those of socket(2).
    /// * There is no runtime on this thread, or it is shutting down.
    pub fn unbound() -> io::Result<Self> {
        open(new_socket()?)
    }

    /// Opens two sockets that are connected to each other.
    ///
    /// # Errors
    ///
    /// Those of [`unbound`](Self::unbound).
    pub fn pair() -> io::Result<(Self, Self)> {
        let (left, right) = Socket::pair(Domain::UNIX, Type::DGRAM, None)?;
        Ok((open(left)?, open(right)?))
    }

    /// Takes over a std socket, and makes it non-blocking.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UnixDatagram;
    ///
    /// let (left, _right) = std::os::unix::net::UnixDatagram::pair()?;
    /// let left = UnixDatagram::from_std(left)?;
    /// # let _ = left;
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// * `InvalidInput` if the descriptor is not a Unix datagram socket, but for example a stream.
    /// * `ENOTSOCK` if it is not a socket.
    /// * There is no runtime on this thread, or it is shutting down.
    ///
    /// After an error, the descriptor is closed.
    pub fn from_std(socket: net::UnixDatagram) -> io::Result<Self> {
        Self::adopt(socket.into(), Exit::Seal)
    }

    /// Takes over a socket; a drain does `exit` to it.
    pub(crate) fn adopt(socket: Socket, exit: Exit) -> io::Result<Self> {
        check_adopted(&socket, Family::Unix)?;
        open_with(crate::sys::socket::Socket::new(socket)?, exit)
    }

    /// Returns the socket, non-blocking, and the datagrams that were taken from it and not
    /// received. They come before anything that is still queued in the kernel.
    ///
    /// A socket that was drained stays sealed: that cannot be undone.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UnixDatagram;
    ///
    /// let (left, _right) = UnixDatagram::pair()?;
    /// let (left, taken) = left.into_std()?;
    /// left.set_nonblocking(false)?;
    /// assert!(taken.is_empty());
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// * The runtime has ended, or no descriptor is left.
    /// * `TimedOut` if the kernel has no memory to end the receive.
    ///
    /// After an error, the socket is dropped.
    pub fn into_std(self) -> io::Result<(net::UnixDatagram, Vec<Datagram<UnixAddr>>)> {
        let (socket, taken) = self.0.detach()?;
        Ok((socket.into(), taken))
    }

    /// Sets the peer of [`send`](Self::send) by its path. From then on, only that peer can send to
    /// this socket.
    ///
    /// A socket can be connected only once: when a Unix datagram socket changes its peer, Linux
    /// throws away what is queued on it. Make a new socket instead.
    ///
    /// # Errors
    ///
    /// * `Unsupported` if the socket is connected.
    /// * `InvalidInput` if the path is too long or contains a zero byte.
    /// * Others of connect(2), unchanged.
    pub fn connect(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.connect_first(&from_path(path.as_ref())?)
    }

    /// Sets the peer of [`send`](Self::send) by any kind of Unix address: see
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
                "the socket is already connected, and connecting it again would throw away what \
                 is queued on it: make a new socket",
            ));
        }
        socket.connect(address)
    }

    /// The address to which the socket is bound. It is unnamed if the socket is not bound.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<UnixAddr> {
        Ok(UnixAddr::from_raw(crate::sys::socket::raw_name(&self.socket()?.local_addr()?)))
    }

    /// The address to which the socket is connected.
    ///
    /// # Errors
    ///
    /// `NotConnected` if it is not connected.
    pub fn peer_addr(&self) -> io::Result<UnixAddr> {
        Ok(UnixAddr::from_raw(crate::sys::socket::raw_name(&self.socket()?.peer_addr()?)))
    }

    /// Sends `payload` to the connected peer in one datagram. Waits while the peer's queue is full
    /// (`net.unix.max_dgram_qlen`). Returns the length of `payload`.
    ///
    /// # Errors
    ///
    /// * `EMSGSIZE` if `payload` is larger than the send buffer.
    /// * `ConnectionRefused` if the peer is gone.
    /// * `BrokenPipe` if the peer has been sealed.
    /// * Others of sendmsg(2).
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while it waits for buffer space, nothing is sent.
    pub fn send<'a>(&'a self, payload: &'a [u8]) -> Sending<'a> {
        self.send_raw(payload, Ok(None))
    }

    /// Sends `payload` to the socket at `path`: see [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// * Those of [`send`](Self::send).
    /// * `NotFound` if the path does not exist.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while it waits for buffer space, nothing is sent.
    pub fn send_to<'a>(&'a self, payload: &'a [u8], path: impl AsRef<Path>) -> Sending<'a> {
        self.send_raw(payload, from_path(path.as_ref()).map(Some))
    }

    /// Sends `payload` to any kind of Unix address: see [`send`](Self::send).
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use std::os::linux::net::SocketAddrExt;
    /// use ebbtide::net::{UnixAddr, UnixDatagram};
    ///
    /// let name = format!("ebbtide-doc-send-{}", std::process::id());
    /// let server = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(name)?)?;
    /// let client = UnixDatagram::unbound()?;
    /// client.send_to_addr(b"hello", &server.local_addr()?).await?;
    /// assert_eq!(&server.recv().await?.expect("not drained")[..], b"hello");
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send).
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while it waits for buffer space, nothing is sent.
    pub fn send_to_addr<'a>(&'a self, payload: &'a [u8], addr: &UnixAddr) -> Sending<'a> {
        self.send_raw(payload, from_unix_addr(addr).map(Some))
    }

    /// Sends `payload` to the connected peer if there is space in its queue. Returns the length of
    /// `payload`. To wait for space, use [`writable`](DatagramSocket::writable).
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the peer's queue is full. Otherwise those of [`send`](Self::send).
    pub fn try_send(&self, payload: &[u8]) -> io::Result<usize> {
        self.try_send_raw(payload, None)
    }

    /// Sends `payload` to the socket at `path` if there is space in its queue. Returns the length
    /// of `payload`.
    ///
    /// [`writable`](DatagramSocket::writable) does not wait for the queue of a peer that is not
    /// connected. To wait for it, use [`send_to`](Self::send_to).
    ///
    /// # Errors
    ///
    /// * Those of [`try_send`](Self::try_send).
    /// * `NotFound` if the path does not exist.
    pub fn try_send_to(&self, payload: &[u8], path: impl AsRef<Path>) -> io::Result<usize> {
        self.try_send_raw(payload, Some(&from_path(path.as_ref())?))
    }
}

fn open(socket: Socket) -> io::Result<UnixDatagram> {
    open_on(crate::sys::socket::Socket::new(socket)?)
}

/// Opens a socket of the kernel, or of one in memory.
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
