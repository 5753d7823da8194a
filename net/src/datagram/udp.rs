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
/// Receiving, draining and what is counted are methods of [`DatagramSocket`], which it dereferences
/// to, as a [`UnixDatagram`](crate::UnixDatagram) does.
///
/// ```
/// # ebbtide_net::doc_run(async {
/// use ebbtide_net::UdpSocket;
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
/// # });
/// ```
pub struct UdpSocket(DatagramSocket<SocketAddr>);

is_datagram_socket!(UdpSocket, SocketAddr);

impl UdpSocket {
    /// A socket bound to the first address of `addr` that can be bound; port 0 lets the kernel
    /// choose. A host name is looked up while the thread waits.
    ///
    /// # Errors
    ///
    /// Those of bind(2), unchanged; that there is no runtime on this thread, or that it is shutting
    /// down.
    pub fn bind(addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::options().bind(addr)
    }

    /// For a socket with options that must be set before it is bound.
    pub fn options() -> UdpOptions {
        UdpOptions::default()
    }

    /// Takes over a socket of std. It need not be non-blocking; it is made so. GRO stays as it is:
    /// see [`set_gro`](Self::set_gro). With other options: [`UdpOptions::from_std`].
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the descriptor inside is not a UDP socket, but a TCP socket, for example;
    /// `ENOTSOCK` if it is no socket. That there is no runtime on this thread, or that it is shutting
    /// down. The descriptor is closed then.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        Self::options().from_std(socket)
    }

    /// Gives the socket back, non-blocking, together with the datagrams that were taken from it and
    /// not received: they come before anything that is still queued in the kernel. The seal of a
    /// drained socket is taken off, the filter that the program had attached before the seal
    /// (`SO_ATTACH_FILTER`) is put back, and GRO is switched off, as by [`set_gro`](Self::set_gro).
    ///
    /// A drained member of a group ([`UdpOptions::reuse_port`]) shares the datagrams again if it was
    /// bound to port 0. If the program had chosen its port, the kernel does not take it back into the
    /// balance: as long as there are other members, it gets all datagrams or none.
    ///
    /// # Errors
    ///
    /// That the runtime has ended, or that no descriptor is left; those of
    /// [`set_gro`](Self::set_gro). The socket is then dropped.
    pub fn into_std(self) -> io::Result<(std::net::UdpSocket, Vec<Datagram>)> {
        let (socket, taken) = self.0.detach()?;
        Ok((socket.into(), taken))
    }

    /// Sets the peer of [`send`](Self::send); from now on only its datagrams are received.
    /// Datagrams of others that are queued already still come.
    ///
    /// # Errors
    ///
    /// Those of connect(2).
    pub fn connect(&self, addr: impl ToSocketAddrs) -> io::Result<()> {
        each_address(addr, |addr| self.endpoint().socket.connect(addr))
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint().socket.local_addr()
    }

    /// The address that the socket is connected to.
    ///
    /// # Errors
    ///
    /// `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint().socket.peer_addr()
    }

    /// Waits for datagrams that came in one train, and takes all that are left of it. `None` as
    /// [`recv`](Self::recv), which hands the same datagrams out one by one.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv).
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub fn recv_train(&self) -> RecvTrain<'_> {
        RecvTrain::new(self.endpoint())
    }

    /// Takes a train that is queued already; otherwise as [`recv_train`](Self::recv_train).
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing is queued, else those of [`recv`](Self::recv).
    pub fn try_recv_train(&self) -> io::Result<Option<Train>> {
        Ok(self.receive(Take::Train)?.map(Train::new))
    }

    /// Whether the kernel hands datagrams of one sender over several at a time, as trains (UDP GRO,
    /// Linux 5.0). Receive methods hand them out as single datagrams all the same.
    #[must_use]
    pub fn gro(&self) -> bool {
        self.endpoint().receive.gro()
    }

    /// Switches GRO on or off. A socket that was bound with the default options has it on if the
    /// buffers of the runtime are large enough: it makes a datagram that comes in a train many times
    /// cheaper, and one that comes alone up to 8 % dearer, most where another CPU has delivered it.
    ///
    /// While it is on, the kernel counts a train that it drops as one
    /// ([`SocketStats::dropped_by_kernel`](crate::SocketStats::dropped_by_kernel),
    /// [`refused`](crate::SocketStats::refused)), and whoever else reads the same socket (a `dup`,
    /// a child process) gets trains, too.
    ///
    /// Switching it off reads what is queued into memory first, because a train that is queued then
    /// could not be told apart from a long datagram, and waits for what other CPUs are about to queue:
    /// some 20 ms of the whole thread. Where datagrams keep coming, the socket is shut
    /// for as long; the kernel counts what it drops
    /// meanwhile. To lose none, bind without it: [`UdpOptions::gro`]. A filter of the program
    /// (`SO_ATTACH_FILTER`) is put back afterwards. A drained socket stays sealed.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the runtime's buffers are smaller than a train
    /// ([`Builder::buffer_size`](ebbtide_runtime::Builder::buffer_size)). `PermissionDenied` if
    /// datagrams keep coming and the socket cannot be shut, because its filter is locked
    /// (`SO_LOCK_FILTER`) or is a BPF program (`SO_ATTACH_BPF`). `TimedOut` if the queue cannot be
    /// read to its end, or the kernel does not give the receive back, for want of memory. `ResourceBusy` if datagrams are queued on a drained socket that are left to
    /// others ([`Exit::Leave`]). Those of setsockopt(2). After an error GRO is as it was, and nothing is lost.
    pub fn set_gro(&self, on: bool) -> io::Result<()> {
        self.endpoint().receive.set_gro(&self.endpoint().socket, on)
    }

    /// Sends `payload` to the connected peer, in one datagram; gives its length. Waits while the
    /// send buffer is full.
    ///
    /// A task that sends in a loop yields after some number of sends (see
    /// [`Builder::operations_per_poll`](ebbtide_runtime::Builder::operations_per_poll)), so that
    /// receivers on the same thread run.
    ///
    /// # Errors
    ///
    /// `EMSGSIZE` if it is larger than 65507 bytes (65527 for IPv6); `ConnectionRefused` if an
    /// earlier datagram found no receiver; else those of sendmsg(2).
    ///
    /// # Cancellation
    ///
    /// A send that is dropped while it waits for room does not take place.
    pub fn send<'a>(&'a self, payload: &'a [u8]) -> Sending<'a> {
        self.send_raw(payload, Ok(None))
    }

    /// Sends `payload` to the first address of `addr`. A host name is looked up while the thread
    /// waits, at every call: look it up beforehand. Otherwise as [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send), and that `addr` names no address.
    ///
    /// # Cancellation
    ///
    /// As [`send`](Self::send).
    pub fn send_to<'a>(&'a self, payload: &'a [u8], addr: impl ToSocketAddrs) -> Sending<'a> {
        self.send_raw(payload, first_address(addr).map(|addr| Some(addr.into())))
    }

    /// Sends several datagrams in order, in as few calls into the kernel as possible: those that
    /// are alike (one peer, one length, of which the last may be shorter) leave as one message that
    /// the kernel cuts as late as possible (UDP GSO), 64 messages a call. Where the device, the
    /// route or the kernel cannot cut them, they leave one by one, in the same order. Waits while
    /// the send buffer is full.
    ///
    /// Returns how many of `transmits` were sent whole, which is all of them unless one failed. If
    /// that was not the first, its error is not returned, as with sendmmsg(2): another call, with
    /// the rest, begins with it. After an error, go on behind the first.
    /// Of a transmit of several datagrams ([`Transmit::segment_size`]) that failed, the first ones
    /// may have been sent.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send), of the first transmit.
    ///
    /// # Cancellation
    ///
    /// What has found room is sent, in order; the rest is not. A transmit of several datagrams may
    /// be sent in part.
    ///
    /// ```
    /// # ebbtide_net::doc_run(async {
    /// use ebbtide_net::{Transmit, UdpSocket};
    ///
    /// let server = UdpSocket::bind("127.0.0.1:0")?;
    /// let client = UdpSocket::bind("127.0.0.1:0")?;
    /// let peer = server.local_addr()?;
    /// let sent = client.send_batch(&[Transmit::to(b"one", peer), Transmit::to(b"two", peer)]).await?;
    /// assert_eq!(sent, 2);
    /// assert_eq!(&server.recv().await?.expect("not drained")[..], b"one");
    /// assert_eq!(&server.recv().await?.expect("not drained")[..], b"two");
    /// # std::io::Result::Ok(())
    /// # });
    /// ```
    pub fn send_batch<'a>(&'a self, transmits: &'a [Transmit<'a>]) -> SendBatch<'a> {
        SendBatch::new(self.endpoint(), transmits)
    }

    /// Sends as many of `transmits` as there is room for now; otherwise as
    /// [`send_batch`](Self::send_batch). Gives how many were sent whole.
    ///
    /// The first datagrams of the transmit behind those may have been sent as well, if it is one of
    /// several ([`Transmit::segment_size`]): the room may end in its middle, and how far it came is
    /// not told. Whoever sends it again sends these twice. What must not be doubled is given as
    /// transmits of one datagram each, which leave together where they are alike, or to
    /// [`send_batch`](Self::send_batch), which waits and goes on where it stopped.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there was room for none as a whole; else those of
    /// [`send_batch`](Self::send_batch).
    pub fn try_send_batch(&self, transmits: &[Transmit<'_>]) -> io::Result<usize> {
        self.endpoint().send.try_send_some(self.endpoint().sends(), transmits)
    }

    /// Sends `payload` to the connected peer as datagrams of `segment_size` bytes, of which the
    /// last may be shorter: see [`Transmit::segment_size`]. Gives the length of `payload`.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send); the first datagrams may have been sent.
    ///
    /// # Cancellation
    ///
    /// As [`send_batch`](Self::send_batch).
    pub async fn send_gso(&self, payload: &[u8], segment_size: usize) -> io::Result<usize> {
        self.transmit(Transmit::new(payload).segment_size(segment_size)).await
    }

    /// Sends one datagram, or several, with what a [`Transmit`] can say besides the address. Gives
    /// the length of its contents.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send).
    ///
    /// # Cancellation
    ///
    /// As [`send_batch`](Self::send_batch).
    pub async fn transmit(&self, transmit: Transmit<'_>) -> io::Result<usize> {
        self.send_batch(&[transmit]).await.map(|_| transmit.len())
    }

    /// Whether sends wait for each other: see [`set_coalescing`](Self::set_coalescing).
    #[must_use]
    pub fn coalescing(&self) -> bool {
        self.endpoint().send.coalesces.get()
    }

    /// Lets the sends of several tasks, or of several futures of one, leave together, as
    /// [`send_batch`](Self::send_batch) does: each waits until all tasks that are ready have run.
    /// For servers whose tasks answer one peer, or a few, each by itself. Off unless set: a task
    /// that awaits its sends one after the other gains nothing, and waits.
    ///
    /// Every send still has its own result, and leaves whether its future is polled again or not,
    /// unless that is dropped before. Sends of one socket leave in the order in which they were first
    /// polled.
    pub fn set_coalescing(&self, on: bool) {
        self.endpoint().send.coalesces.set(on);
    }

    /// Sends `payload` to the connected peer if there is room now.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is none; else those of [`send`](Self::send).
    pub fn try_send(&self, payload: &[u8]) -> io::Result<usize> {
        self.try_send_raw(payload, None)
    }

    /// Sends `payload` to the first address of `addr` if there is room now.
    ///
    /// # Errors
    ///
    /// Those of [`try_send`](Self::try_send), and that `addr` names no address.
    pub fn try_send_to(&self, payload: &[u8], addr: impl ToSocketAddrs) -> io::Result<usize> {
        self.try_send_raw(payload, Some(&first_address(addr)?.into()))
    }
}

/// Tries `f` on each address until one succeeds; returns the last error if none does. The error is
/// that of the kernel, unchanged: one that names the address as well would have no errno.
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
    io::Error::new(io::ErrorKind::InvalidInput, "the name has no address")
}
