//! [`DatagramSocket`]: what all datagram sockets can do, whatever their addresses are.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;

use ebbtide_runtime::{Drainable, Exit, SocketStats};
use socket2::SockAddr;

use super::endpoint::Endpoint;
use super::message::Datagram;
use super::receive::{Incoming, ReceivedMessage, Recv, RecvBatch, RecvFrom, Take};
use super::send::{Sending, Writable};
use crate::sys::address::Address;
use crate::sys::option::size;

/// What [`UdpSocket`](crate::UdpSocket) and [`UnixDatagram`](crate::UnixDatagram) have in common:
/// receiving, draining, statistics and buffer sizes.
///
/// Both types dereference to this one. Code for both takes a `&DatagramSocket<A>`; `into()` turns
/// either socket into an owned one. Programs that use one kind of socket need not name this type.
///
/// A socket receives from the moment it is made, whether or not anybody waits. A received datagram
/// belongs to the socket, not to the future that asked for it. Receiving takes `&self`; put the
/// socket into an [`Rc`] to use it in several tasks. The socket stays on the thread and in the
/// runtime that made it.
///
/// What happens to a datagram:
///
/// * Dropping a receive future loses nothing. `select`, `timeout` and `abort` around one are safe.
/// * After [`drain`](Self::drain), and at the end of the runtime, receivers get what the kernel had
///   queued, and then `None`.
/// * Dropping the *socket* throws away what was not received, as closing any socket does. Datagrams
///   that were already taken from the kernel are counted in [`SocketStats::discarded`]. Of the
///   others, it is only known whether there were any ([`SocketStats::abandoned`]). To lose none,
///   drain the socket first.
///
/// ```
/// # ebbtide::run(async {
/// use ebbtide::net::{Address, DatagramSocket, UnixDatagram};
///
/// async fn count<A: Address>(socket: &DatagramSocket<A>) -> std::io::Result<usize> {
///     let mut count = 0;
///     while socket.recv().await?.is_some() {
///         count += 1;
///     }
///     Ok(count)
/// }
///
/// let (left, right) = UnixDatagram::pair()?;
/// left.send(b"hello").await?;
/// right.drain()?;
/// assert_eq!(count(&right).await?, 1);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub struct DatagramSocket<A> {
    endpoint: Rc<Endpoint>,
    address: PhantomData<fn() -> A>,
}

impl<A: Address> DatagramSocket<A> {
    pub(super) fn new(endpoint: Rc<Endpoint>) -> Self {
        Self { endpoint, address: PhantomData }
    }

    pub(crate) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }

    pub(super) fn socket(&self) -> io::Result<&socket2::Socket> {
        self.endpoint.socket.kernel()
    }

    pub(super) fn send_raw<'a>(
        &'a self,
        payload: &'a [u8],
        to: io::Result<Option<SockAddr>>,
    ) -> Sending<'a> {
        Sending::new(&self.endpoint, payload, to)
    }

    pub(super) fn try_send_raw(&self, payload: &[u8], to: Option<&SockAddr>) -> io::Result<usize> {
        self.endpoint.send.try_send(self.endpoint.sends(), payload, to)
    }

    pub(super) fn receive(&self, take: Take) -> io::Result<Option<ReceivedMessage>> {
        self.endpoint.receive.try_receive(&self.endpoint.socket, take)
    }

    pub(super) fn detach(self) -> io::Result<(socket2::Socket, Vec<Datagram<A>>)> {
        // The user gets a descriptor of its own, because a send that waits for buffer space may
        // keep the endpoint for a while. It is made first: if no descriptor is left, nothing has
        // been taken.
        let socket = self.endpoint.as_fd().try_clone_to_owned()?.into();
        let taken = self.endpoint.detach()?;
        Ok((socket, taken.into_iter().map(Datagram::new).collect()))
    }

    /// Waits for a datagram. Returns `None` when the socket is drained: it is sealed, and
    /// everything that was queued has been received.
    ///
    /// Nothing is copied. The datagram owns the buffer into which the kernel wrote it.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.send_to(b"hello", socket.local_addr()?).await?;
    /// if let Some(datagram) = socket.recv().await? {
    ///     assert_eq!(&datagram[..], b"hello");
    /// }
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// A pending error of the socket, for example `ConnectionRefused` if a connected peer is gone.
    /// It is returned once, in its place between the datagrams, and receiving goes on.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing: the datagram stays with the socket for the next receiver.
    /// A future that is kept but not polled loses nothing either: another receiver that waits is
    /// woken instead.
    pub fn recv(&self) -> Recv<'_, A> {
        Recv::new(&self.endpoint)
    }

    /// Waits for a datagram and copies it into `buf`. Returns the number of bytes copied and the
    /// sender's address, or `None` when the socket is drained.
    ///
    /// Bytes that do not fit into `buf` are cut off. [`recv`](Self::recv) needs no `buf` and
    /// cuts nothing off.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.send_to(b"hello", socket.local_addr()?).await?;
    /// let mut buf = [0; 1500];
    /// let (len, peer) = socket.recv_from(&mut buf).await?.expect("not drained");
    /// assert_eq!((&buf[..len], peer), (&b"hello"[..], socket.local_addr()?));
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv).
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub fn recv_from<'a>(&'a self, buf: &'a mut [u8]) -> RecvFrom<'a, A> {
        RecvFrom::new(&self.endpoint, buf)
    }

    /// Waits for a datagram, and appends it and up to `limit - 1` others that have arrived to
    /// `batch`. Returns how many were appended. 0 means that the socket is drained, or that `limit`
    /// is 0.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UnixDatagram;
    ///
    /// let (left, right) = UnixDatagram::pair()?;
    /// left.send(b"one").await?;
    /// left.send(b"two").await?;
    /// let mut batch = Vec::new();
    /// while batch.len() < 2 {
    ///     right.recv_batch(&mut batch, 32).await?;
    /// }
    /// assert_eq!(&batch[1][..], b"two");
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv), if the error comes before any datagram. An error between
    /// datagrams ends the batch, and the next call returns it.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub fn recv_batch<'a>(
        &'a self,
        batch: &'a mut Vec<Datagram<A>>,
        limit: usize,
    ) -> RecvBatch<'a, A> {
        RecvBatch::new(&self.endpoint, batch, limit)
    }

    /// Receives a datagram if one is queued, here or in the kernel. Returns `None` when the socket
    /// is drained.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UnixDatagram;
    ///
    /// let (left, right) = UnixDatagram::pair()?;
    /// assert_eq!(right.try_recv().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    /// left.send(b"hello").await?;
    /// assert_eq!(&right.try_recv()?.expect("not drained")[..], b"hello");
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing is queued. Otherwise those of [`recv`](Self::recv).
    pub fn try_recv(&self) -> io::Result<Option<Datagram<A>>> {
        Ok(self.receive(Take::One)?.map(Datagram::new))
    }

    /// Returns a stream of all datagrams. It ends when the socket is drained.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UnixDatagram;
    /// use futures_util::TryStreamExt;
    ///
    /// let (left, right) = UnixDatagram::pair()?;
    /// left.send(b"hello").await?;
    /// right.drain()?;
    /// let datagrams: Vec<_> = right.incoming().try_collect().await?;
    /// assert_eq!(datagrams.len(), 1);
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Cancellation
    ///
    /// Dropping the stream loses nothing.
    pub fn incoming(&self) -> Incoming<'_, A> {
        Incoming::new(&self.endpoint)
    }

    /// Waits until a datagram can be sent. That is when there is space in the send buffer and, for
    /// a connected Unix socket, in the peer's queue.
    ///
    /// Use it with `try_send`; `send` waits by itself. The drain of the runtime waits for it, as it
    /// does for a send.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UnixDatagram;
    ///
    /// let (left, right) = UnixDatagram::pair()?;
    /// loop {
    ///     left.writable().await?;
    ///     match left.try_send(b"hello") {
    ///         Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
    ///         sent => break assert_eq!(sent?, 5),
    ///     }
    /// }
    /// right.recv().await?;
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// The runtime has ended.
    ///
    /// # Cancellation
    ///
    /// Dropping the future changes nothing.
    pub fn writable(&self) -> Writable<'_> {
        Writable::new(&self.endpoint)
    }

    /// Seals the socket: the kernel queues nothing more on it. From then on, the receive methods
    /// return what was queued before the seal, here and in the kernel, and then `None`. It is what
    /// closing a channel is to its receiver.
    ///
    /// When the function returns, the seal is in place. It takes a few microseconds and does not
    /// wait for receivers.
    ///
    /// * Later datagrams to a UDP socket vanish without an error for the sender. The kernel counts
    ///   them ([`SocketStats::refused`]). Senders to a Unix socket get `BrokenPipe`.
    /// * The socket can still send.
    /// * A UDP socket that shares its address leaves its share to the others first: see
    ///   [`UdpOptions::reuse_port`](crate::UdpOptions::reuse_port).
    /// * Other descriptors of the same socket, made by `dup` or inherited, are sealed too. Closing
    ///   this socket removes the seal of a UDP socket.
    /// * A socket with [`Exit::Leave`] is not sealed. It returns what was already taken from the
    ///   kernel, and then `None`.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UnixDatagram;
    ///
    /// let (left, right) = UnixDatagram::pair()?;
    /// left.send(b"before the seal").await?;
    /// right.drain()?;
    /// assert!(left.send(b"after it").await.is_err());
    /// assert_eq!(&right.recv().await?.expect("it was queued")[..], b"before the seal");
    /// assert!(right.recv().await?.is_none());
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// * `PermissionDenied` if a UDP socket cannot be sealed. Its filter is locked
    ///   (`SO_LOCK_FILTER`), or is a BPF program (`SO_ATTACH_BPF`), which could not be restored.
    ///   What is queued can still be received, and then `None`. What arrives later is read if the
    ///   socket is drained again.
    /// * `TimedOut` if the queue could not be read to its end. For 5 seconds the kernel had no
    ///   memory for a request, or every read failed. The socket can be drained again.
    pub fn drain(&self) -> io::Result<()> {
        self.endpoint.drain()
    }

    /// What a drain does to the socket.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.endpoint.exit()
    }

    /// Sets what a drain does to the socket: the drain at the end of the runtime, and
    /// [`drain`](Self::drain).
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::{Exit, UnixDatagram};
    ///
    /// let (inside, _peer) = UnixDatagram::pair()?;
    /// inside.set_exit(Exit::SealLast)?; // what the exit handles can still be sent to it
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the socket was drained. `NotConnected` if the runtime has ended.
    pub fn set_exit(&self, exit: Exit) -> io::Result<()> {
        self.endpoint.set_exit(exit)
    }

    /// What has happened on the socket so far.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.send_to(b"hello", socket.local_addr()?).await?;
    /// let datagram = socket.recv().await?;
    /// assert_eq!(socket.stats().received, 1);
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn stats(&self) -> SocketStats {
        self.endpoint.stats()
    }

    /// The size of the kernel's receive buffer in bytes (`SO_RCVBUF`). It is twice the requested
    /// size.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn recv_buffer_size(&self) -> io::Result<usize> {
        self.socket()?.recv_buffer_size()
    }

    /// Requests a receive buffer of `bytes`. The kernel grants at most `net.core.rmem_max`. A
    /// datagram that arrives while the buffer is full is lost before any program can see it.
    ///
    /// A size that does not fit into an `int` becomes the largest `int`.
    ///
    /// ```
    /// # ebbtide::run(async {
    /// use ebbtide::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_recv_buffer_size(100_000)?;
    /// assert_eq!(socket.recv_buffer_size()?, 200_000);
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_recv_buffer_size(&self, bytes: usize) -> io::Result<()> {
        self.socket()?.set_recv_buffer_size(size(bytes))
    }

    /// The size of the kernel's send buffer in bytes (`SO_SNDBUF`). It is twice the requested size.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn send_buffer_size(&self) -> io::Result<usize> {
        self.socket()?.send_buffer_size()
    }

    /// Requests a send buffer of `bytes`. The kernel grants at most `net.core.wmem_max`.
    ///
    /// A size that does not fit into an `int` becomes the largest `int`.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_send_buffer_size(&self, bytes: usize) -> io::Result<()> {
        self.socket()?.set_send_buffer_size(size(bytes))
    }

    /// Takes the pending error of the socket (`SO_ERROR`). If the socket has already received an
    /// error that no receiver has taken, returns that one.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        let error = self.socket()?.take_error()?;
        Ok(error.or_else(|| self.endpoint.receive.take_unclaimed_error(&self.endpoint.socket)))
    }
}

impl<A> Drop for DatagramSocket<A> {
    /// Frees the address and throws away what was not received. The runtime counts it as discarded.
    fn drop(&mut self) {
        self.endpoint.close();
    }
}

impl<A> AsFd for DatagramSocket<A> {
    /// For options that have no method here. Reading from the descriptor takes datagrams out of
    /// order.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.endpoint.as_fd()
    }
}

impl<A> AsRawFd for DatagramSocket<A> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<A> fmt::Debug for DatagramSocket<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSocket").field("endpoint", &self.endpoint).finish()
    }
}

/// Implements the traits of a newtype of [`DatagramSocket`].
macro_rules! is_datagram_socket {
    ($name:ident, $address:ty) => {
        impl $name {
            pub(crate) fn new(endpoint: std::rc::Rc<crate::datagram::endpoint::Endpoint>) -> Self {
                Self(DatagramSocket::new(endpoint))
            }
        }

        impl std::ops::Deref for $name {
            type Target = DatagramSocket<$address>;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }

        impl From<DatagramSocket<$address>> for $name {
            fn from(socket: DatagramSocket<$address>) -> Self {
                Self(socket)
            }
        }

        impl From<$name> for DatagramSocket<$address> {
            fn from(socket: $name) -> Self {
                socket.0
            }
        }

        impl std::os::fd::AsFd for $name {
            /// For options that have no method here. Reading from the descriptor takes datagrams
            /// out of order.
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.0.as_fd()
            }
        }

        impl std::os::fd::AsRawFd for $name {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                self.0.as_raw_fd()
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($name)).field(self.endpoint()).finish()
            }
        }
    };
}
pub(super) use is_datagram_socket;
