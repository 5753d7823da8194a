//! [`UdpSocket`].

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use super::message::{Datagram, Train};
use super::receive::{RecvTrain, Take};
use super::send::{SendBatch, Sending, Transmit};
use super::socket::{DatagramSocket, is_datagram_socket};
use super::udp_options::UdpOptions;

/// A UDP socket.
///
/// | To | use |
/// |---|---|
/// | open it | [`bind`], [`options`], [`from_std`] |
/// | receive | [`recv`], [`recv_from`], [`recv_batch`], [`recv_train`], [`incoming`] |
/// | send | [`send_to`], [`send`] to the peer of [`connect`], [`send_batch`], [`transmit`] |
/// | end without loss | [`drain`], [`set_exit`], [`into_std`] |
/// | see what happened | [`stats`] |
/// | set options | [below](#implementations); before the bind, [`UdpOptions`] |
///
/// Methods that a [`UnixDatagram`](crate::UnixDatagram) has too are those of [`DatagramSocket`], to
/// which this type dereferences. Its page says what happens to a datagram when a future, the socket
/// or the program ends.
///
/// ```
/// # ebbtide::run(async {
/// use ebbtide::net::UdpSocket;
///
/// let server = UdpSocket::bind("127.0.0.1:0")?;
/// let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.connect(server.local_addr()?)?;
/// client.send(b"ping").await?;
///
/// let ping = server.recv().await?.expect("not drained");
/// server.send_to(b"pong", ping.peer()).await?;
/// assert_eq!(&client.recv().await?.expect("not drained")[..], b"pong");
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
///
/// [`bind`]: Self::bind
/// [`options`]: Self::options
/// [`from_std`]: Self::from_std
/// [`recv`]: DatagramSocket::recv
/// [`recv_from`]: DatagramSocket::recv_from
/// [`recv_batch`]: DatagramSocket::recv_batch
/// [`recv_train`]: Self::recv_train
/// [`incoming`]: DatagramSocket::incoming
/// [`send_to`]: Self::send_to
/// [`send`]: Self::send
/// [`connect`]: Self::connect
/// [`send_batch`]: Self::send_batch
/// [`transmit`]: Self::transmit
/// [`drain`]: DatagramSocket::drain
/// [`set_exit`]: DatagramSocket::set_exit
/// [`into_std`]: Self::into_std
/// [`stats`]: DatagramSocket::stats
pub struct UdpSocket(DatagramSocket<SocketAddr>);

is_datagram_socket!(UdpSocket, SocketAddr);

impl UdpSocket {
    /// Opens a socket and binds it to the first address of `addr` that can be bound. With port 0,
    /// the kernel chooses the port.
    ///
    /// Looking up a host name blocks the thread.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// println!("listening on {}", socket.local_addr()?);
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// * Those of bind(2), unchanged.
    /// * There is no runtime on this thread, or it is shutting down.
    pub fn bind(addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::options().bind(addr)
    }

    /// Options that must be set before the socket is bound.
    pub fn options() -> UdpOptions {
        UdpOptions::default()
    }

    /// Takes over a std socket, and makes it non-blocking.
    ///
    /// GRO stays as it is: see [`set_gro`](Self::set_gro). To set options as well, use
    /// [`UdpOptions::from_std`].
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let bound = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// let socket = UdpSocket::from_std(bound)?;
    /// # let _ = socket;
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// * `InvalidInput` if the descriptor is not a UDP socket, but for example a TCP socket.
    /// * `ENOTSOCK` if it is not a socket.
    /// * There is no runtime on this thread, or it is shutting down.
    ///
    /// After an error, the descriptor is closed.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        Self::options().from_std(socket)
    }

    /// Returns the socket, non-blocking, and the datagrams that were taken from it and not
    /// received. They come before anything that is still queued in the kernel.
    ///
    /// If the socket was drained, its seal is removed. The filter that the program had attached
    /// before the seal (`SO_ATTACH_FILTER`) is restored. GRO is switched off, as
    /// [`set_gro`](Self::set_gro) does it.
    ///
    /// A drained member of a group ([`UdpOptions::reuse_port`]) shares the datagrams again if it
    /// was bound to port 0. If the program had chosen its port, the kernel does not balance load
    /// with it again: while there are other members, it gets all datagrams or none.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// let (socket, taken) = socket.into_std()?;
    /// socket.set_nonblocking(false)?;
    /// assert!(taken.is_empty());
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// * The runtime has ended, or no descriptor is left.
    /// * Those of [`set_gro`](Self::set_gro).
    ///
    /// After an error, the socket is dropped.
    pub fn into_std(self) -> io::Result<(std::net::UdpSocket, Vec<Datagram>)> {
        let (socket, taken) = self.0.detach()?;
        Ok((socket.into(), taken))
    }

    /// Sets the peer of [`send`](Self::send). From now on, only datagrams of that peer arrive.
    /// Datagrams of others that are already queued can still be received.
    ///
    /// If `addr` has several addresses, each is tried until one succeeds.
    ///
    /// # Errors
    ///
    /// Those of connect(2).
    pub fn connect(&self, addr: impl ToSocketAddrs) -> io::Result<()> {
        each_address(addr, |addr| self.endpoint().socket.connect(addr))
    }

    /// The address to which the socket is bound.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint().socket.local_addr()
    }

    /// The address to which the socket is connected.
    ///
    /// # Errors
    ///
    /// `NotConnected` if it is not connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint().socket.peer_addr()
    }

    /// Waits for a train, and takes all datagrams that are left of it. Returns `None` when the
    /// socket is drained. [`recv`](DatagramSocket::recv) returns the same datagrams one by one. See
    /// [`Train`] for an example.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](DatagramSocket::recv).
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub fn recv_train(&self) -> RecvTrain<'_> {
        RecvTrain::new(self.endpoint())
    }

    /// Receives a train if one is queued: see [`recv_train`](Self::recv_train).
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing is queued. Otherwise those of [`recv`](DatagramSocket::recv).
    pub fn try_recv_train(&self) -> io::Result<Option<Train>> {
        Ok(self.receive(Take::Train)?.map(Train::new))
    }

    /// Whether GRO is on: the kernel may then queue several datagrams of one sender as one train
    /// (UDP GRO, Linux 5.0). Receive methods return single datagrams in either case.
    #[must_use]
    pub fn gro(&self) -> bool {
        self.endpoint().receive.gro()
    }

    /// Switches GRO on or off.
    ///
    /// A socket that was bound with the default options has it on if the runtime's buffers are
    /// large enough. It makes a datagram that comes in a train many times cheaper. It makes one
    /// that comes alone up to 8 % more expensive, most where another CPU has delivered it.
    ///
    /// While GRO is on:
    ///
    /// * A train that the kernel drops counts as one datagram in
    ///   [`SocketStats::dropped_by_kernel`](crate::SocketStats::dropped_by_kernel) and
    ///   [`refused`](crate::SocketStats::refused).
    /// * Others who read the same socket, through a `dup` or in a child process, get trains too.
    ///
    /// Switching it off first reads what is queued into memory, because a queued train would later
    /// look like one long datagram. Then it waits for datagrams that other CPUs are about to queue.
    /// That blocks the thread for some 20 ms. Where datagrams keep coming, the socket refuses them
    /// for that time, and the kernel counts what it drops. To lose none, bind without GRO:
    /// [`UdpOptions::gro`]. A filter of the program (`SO_ATTACH_FILTER`) is restored afterwards. A
    /// drained socket stays sealed.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert!(socket.gro());
    /// socket.set_gro(false)?;
    /// assert!(!socket.gro());
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// * `InvalidInput` if the runtime's buffers are smaller than a train: see
    ///   [`Builder::buffer_size`](ebbtide_runtime::Builder::buffer_size).
    /// * `PermissionDenied` if datagrams keep coming and the socket cannot refuse them, because its
    ///   filter is locked (`SO_LOCK_FILTER`) or is a BPF program (`SO_ATTACH_BPF`).
    /// * `TimedOut` if the queue cannot be read to its end, or if the kernel has no memory to end
    ///   the receive.
    /// * `ResourceBusy` if datagrams are queued on a drained socket with
    ///   [`Exit::Leave`](crate::Exit::Leave), which leaves them to others.
    /// * Those of setsockopt(2).
    ///
    /// After an error, GRO is as before and nothing is lost.
    pub fn set_gro(&self, on: bool) -> io::Result<()> {
        self.endpoint().receive.set_gro(&self.endpoint().socket, on)
    }

    /// Sends `payload` to the connected peer in one datagram. Waits while the send buffer is full.
    /// Returns the length of `payload`.
    ///
    /// A task that sends in a loop yields after a number of sends, so that receivers on the same
    /// thread run: see
    /// [`Builder::operations_per_poll`](ebbtide_runtime::Builder::operations_per_poll).
    ///
    /// # Errors
    ///
    /// * `EMSGSIZE` if `payload` is longer than 65507 bytes (65527 for IPv6).
    /// * `ConnectionRefused` if an earlier datagram found no receiver.
    /// * Others of sendmsg(2).
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while it waits for buffer space, nothing is sent.
    pub fn send<'a>(&'a self, payload: &'a [u8]) -> Sending<'a> {
        self.send_raw(payload, Ok(None))
    }

    /// Sends `payload` to the first address of `addr` in one datagram: see [`send`](Self::send).
    ///
    /// A host name is looked up in every call, and the lookup blocks the thread. Look it up
    /// beforehand.
    ///
    /// # Errors
    ///
    /// * Those of [`send`](Self::send).
    /// * `addr` has no address, or cannot be looked up.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while it waits for buffer space, nothing is sent.
    pub fn send_to<'a>(&'a self, payload: &'a [u8], addr: impl ToSocketAddrs) -> Sending<'a> {
        self.send_raw(payload, first_address(addr).map(|addr| Some(addr.into())))
    }

    /// Sends several datagrams in order, in as few system calls as possible. Waits while the send
    /// buffer is full.
    ///
    /// Datagrams that are alike leave as one message that the kernel cuts as late as possible (UDP
    /// GSO). Alike means one peer and one length, except that the last may be shorter. Up to 64
    /// messages leave in a call. Where the device, the route or the kernel cannot cut messages, the
    /// datagrams leave one by one, in the same order.
    ///
    /// Returns how many of `transmits` were sent completely. If one fails, the batch stops there.
    /// The error is returned only if the first one failed. So call again with the rest: if that
    /// call fails, it has sent nothing, and the next call leaves out the first of them.
    ///
    /// If a transmit of several datagrams fails ([`Transmit::segment_size`]), the first of them may
    /// have been sent.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send), of the first transmit.
    ///
    /// # Cancellation
    ///
    /// The datagrams for which there was buffer space have been sent, in order; the others are not.
    /// A transmit of several datagrams may have been sent in part.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::{Transmit, UdpSocket};
    ///
    /// let server = UdpSocket::bind("127.0.0.1:0")?;
    /// let client = UdpSocket::bind("127.0.0.1:0")?;
    /// let peer = server.local_addr()?;
    /// let transmits = [Transmit::to(b"one", peer), Transmit::to(b"two", peer)];
    /// assert_eq!(client.send_batch(&transmits).await?, 2);
    /// assert_eq!(&server.recv().await?.expect("not drained")[..], b"one");
    /// assert_eq!(&server.recv().await?.expect("not drained")[..], b"two");
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn send_batch<'a>(&'a self, transmits: &'a [Transmit<'a>]) -> SendBatch<'a> {
        SendBatch::new(self.endpoint(), transmits)
    }

    /// Sends as many of `transmits` as there is buffer space for: see
    /// [`send_batch`](Self::send_batch). Returns how many were sent completely.
    ///
    /// If the next transmit has several datagrams ([`Transmit::segment_size`]), the first of them
    /// may have been sent too. How many is not reported, and sending that transmit again sends them
    /// twice. To send nothing twice, use transmits of one datagram each, which leave together if
    /// they are alike. Or use [`send_batch`](Self::send_batch), which waits and goes on where it
    /// stopped.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if no transmit could be sent completely. Otherwise those of
    /// [`send_batch`](Self::send_batch).
    pub fn try_send_batch(&self, transmits: &[Transmit<'_>]) -> io::Result<usize> {
        self.endpoint().send.try_send_some(self.endpoint().sends(), transmits)
    }

    /// Sends `payload` to the connected peer as datagrams of `segment_size` bytes, of which the
    /// last may be shorter: see [`Transmit::segment_size`]. Returns the length of `payload`. See
    /// [`Train`] for an example.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send). The first datagrams may have been sent.
    ///
    /// # Cancellation
    ///
    /// See [`send_batch`](Self::send_batch).
    pub async fn send_gso(&self, payload: &[u8], segment_size: usize) -> io::Result<usize> {
        self.transmit(Transmit::new(payload).segment_size(segment_size)).await
    }

    /// Sends one datagram or several, as the [`Transmit`] says. Returns the length of its contents.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::{EcnCodepoint, Transmit, UdpSocket};
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// let to_self = Transmit::to(b"hello", socket.local_addr()?);
    /// assert_eq!(socket.transmit(to_self.ecn(EcnCodepoint::Ect0)).await?, 5);
    /// # socket.recv().await?;
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
    /// See [`send_batch`](Self::send_batch).
    pub async fn transmit(&self, transmit: Transmit<'_>) -> io::Result<usize> {
        self.send_batch(&[transmit]).await.map(|_| transmit.len())
    }

    /// Whether coalescing is on: see [`set_coalescing`](Self::set_coalescing).
    #[must_use]
    pub fn coalescing(&self) -> bool {
        self.endpoint().send.coalesces.get()
    }

    /// Lets the sends of several tasks, or of several futures of one task, leave together, as in
    /// [`send_batch`](Self::send_batch). Each send then waits until all tasks that are ready have
    /// run.
    ///
    /// Use it in servers in which several tasks answer one peer, or a few. It is off by default: a
    /// task that awaits one send after the other gains nothing, and waits longer.
    ///
    /// Every send has its own result. It leaves even if its future is not polled again, unless the
    /// future is dropped before. Sends of one socket leave in the order in which they were first
    /// polled.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_coalescing(true);
    /// assert!(socket.coalescing());
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn set_coalescing(&self, on: bool) {
        self.endpoint().send.coalesces.set(on);
    }

    /// Sends `payload` to the connected peer if there is buffer space. Returns the length of
    /// `payload`.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is no buffer space. Otherwise those of [`send`](Self::send).
    pub fn try_send(&self, payload: &[u8]) -> io::Result<usize> {
        self.try_send_raw(payload, None)
    }

    /// Sends `payload` to the first address of `addr` if there is buffer space. Returns the length
    /// of `payload`.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert_eq!(socket.try_send_to(b"hello", socket.local_addr()?)?, 5);
    /// # socket.recv().await?;
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// * Those of [`try_send`](Self::try_send).
    /// * `addr` has no address, or cannot be looked up.
    pub fn try_send_to(&self, payload: &[u8], addr: impl ToSocketAddrs) -> io::Result<usize> {
        self.try_send_raw(payload, Some(&first_address(addr)?.into()))
    }
}

/// Tries `f` on each address until one succeeds. Returns the last error if none does. It is the
/// kernel's error, unchanged: an error with a text that names the address would have no errno.
pub(super) fn each_address<T>(
    addr: impl ToSocketAddrs,
    mut f: impl FnMut(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = no_address();
    for addr in addr.to_socket_addrs()? {
        match f(addr) {
            Ok(done) => return Ok(done),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn first_address(addr: impl ToSocketAddrs) -> io::Result<SocketAddr> {
    addr.to_socket_addrs()?.next().ok_or_else(no_address)
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "there is no address to use")
}
