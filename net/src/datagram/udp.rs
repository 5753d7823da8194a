//! [`UdpSocket`] and the options that must be set before binding.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use ebbtide_runtime::Exit;
use ebbtide_runtime::driver::Layout;
use socket2::{Domain, Protocol, Socket, Type};

use super::endpoint::{Endpoint, Family};
use super::future::{RecvTrain, SendBatch, Sending};
use super::gro::GroWish;
use super::inbox::Portion;
use super::message::{Datagram, Train};
use super::sender::Progress;
use super::socket::DatagramSocket;
use super::transmit::Transmit;
use crate::address::{INTERNET_NAME_LEN, IPV4_NAME_LEN};
use crate::adopted::check_adopted;
use crate::control::Wanted;
use crate::option::{bind_device, request, size};

/// A UDP socket. See [`DatagramSocket`] for receiving and draining.
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
pub type UdpSocket = DatagramSocket<SocketAddr>;

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
        let (socket, taken) = self.detach()?;
        Ok((socket.into(), taken))
    }

    /// Sets the peer of [`send`](Self::send); from now on only its datagrams are received.
    /// Datagrams of others that are queued already still come.
    ///
    /// # Errors
    ///
    /// Those of connect(2).
    pub fn connect(&self, addr: impl ToSocketAddrs) -> io::Result<()> {
        each_address(addr, |addr| self.endpoint().connect(addr))
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint().local_addr()
    }

    /// The address that the socket is connected to.
    ///
    /// # Errors
    ///
    /// `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint().peer_addr()
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
        Ok(self.endpoint().try_receive(Portion::Message)?.map(Train::new))
    }

    /// Whether the kernel hands datagrams of one sender over several at a time, as trains (UDP GRO,
    /// Linux 5.0). Receive methods hand them out as single datagrams all the same.
    pub fn gro(&self) -> bool {
        self.endpoint().gro()
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
        self.endpoint().set_gro(on)
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
        let mut progress = Progress::default();
        match self.endpoint().try_send_batch(transmits, &mut progress) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && progress.at.index > 0 => {
                Ok(progress.at.index)
            }
            result => result,
        }
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
    pub fn coalescing(&self) -> bool {
        self.endpoint().sender.coalesces.get()
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
        self.endpoint().sender.coalesces.set(on);
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
        open_on(crate::socket::Socket::new(socket)?, layout, |endpoint| {
            endpoint.set_exit(self.exit)?;
            request(endpoint.socket()?, self.wanted)?;
            endpoint.note_traffic_classes()?;
            endpoint.wish_gro(gro)
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
    socket: crate::socket::Socket,
    layout: Layout,
    prepare: impl FnOnce(&Endpoint) -> io::Result<()>,
) -> io::Result<UdpSocket> {
    Ok(UdpSocket::new(Endpoint::open(socket, Family::Internet, layout, prepare)?))
}

/// Tries `f` on each address until one succeeds; returns the last error if none does. The error is
/// that of the kernel, unchanged: one that names the address as well would have no errno.
fn each_address<T>(
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
