//! [`Datagram`] and [`Train`]: received data, in the buffer into which the kernel wrote it.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::time::SystemTime;

use super::receive::ReceivedMessage;
use crate::sys::address::Address;
use crate::sys::control::{EcnCodepoint, Metadata};

/// A received datagram. Dereferences to its payload.
///
/// It owns the pool buffer into which the kernel wrote it. Dropping it returns the buffer to the
/// pool. While a program keeps many datagrams, sockets may pause: further datagrams then wait in
/// the kernel, and none is lost. To keep data for long, copy it: `datagram.to_vec()`.
///
/// Datagrams of one train share a buffer, which returns to the pool with the last of them: see
/// [`UdpSocket::set_gro`](crate::UdpSocket::set_gro).
///
/// A datagram may outlive its socket and its runtime.
///
/// ```
/// # ebbtide::run(async {
/// use ebbtide::net::UdpSocket;
///
/// let socket = UdpSocket::bind("127.0.0.1:0")?;
/// socket.send_to(b"hello", socket.local_addr()?).await?;
/// let datagram = socket.recv().await?.expect("the socket is not drained");
/// assert_eq!(&datagram[..], b"hello");
/// assert_eq!(datagram.peer(), socket.local_addr()?);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub struct Datagram<A = SocketAddr> {
    message: ReceivedMessage,
    address: PhantomData<fn() -> A>,
}

impl<A: Address> Datagram<A> {
    pub(crate) fn new(message: ReceivedMessage) -> Self {
        Self { message, address: PhantomData }
    }

    /// The sender's address. A Unix socket that is bound to no name is unnamed.
    #[must_use]
    pub fn peer(&self) -> A {
        A::from_raw(self.message.name())
    }

    /// Whether the sender sent more than the buffer holds: see
    /// [`Builder::buffer_size`](ebbtide_runtime::Builder::buffer_size).
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.message.is_truncated()
    }

    /// The number of bytes that the sender sent. It exceeds `len()` exactly if the datagram is
    /// truncated.
    #[must_use]
    pub fn original_len(&self) -> usize {
        self.message.original_len()
    }
}

impl Datagram<SocketAddr> {
    /// The congestion notification (ECN) of the datagram.
    ///
    /// `None` if it has none, or if the socket does not request it: see
    /// [`UdpOptions::recv_ecn`](crate::UdpOptions::recv_ecn).
    #[must_use]
    pub fn ecn(&self) -> Option<EcnCodepoint> {
        self.metadata().ecn
    }

    /// The local address to which the datagram was sent.
    ///
    /// `None` unless the socket requests it: see
    /// [`UdpOptions::recv_dst_ip`](crate::UdpOptions::recv_dst_ip).
    #[must_use]
    pub fn dst_ip(&self) -> Option<IpAddr> {
        self.metadata().dst_ip
    }

    /// The index of the interface on which the datagram arrived.
    ///
    /// `None` unless the socket requests it: see
    /// [`UdpOptions::recv_dst_ip`](crate::UdpOptions::recv_dst_ip).
    #[must_use]
    pub fn interface_index(&self) -> Option<u32> {
        self.metadata().interface_index
    }

    /// The time at which the kernel received the datagram.
    ///
    /// `None` unless the socket requests it: see
    /// [`UdpOptions::recv_timestamp`](crate::UdpOptions::recv_timestamp).
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.metadata().timestamp
    }

    /// How many messages the kernel had dropped on the socket when it queued this one. The counter
    /// wraps.
    ///
    /// `None` if there were none, or if the socket does not request it: see
    /// [`UdpOptions::recv_drop_count`](crate::UdpOptions::recv_drop_count).
    #[must_use]
    pub fn drop_count(&self) -> Option<u32> {
        self.metadata().drop_count
    }

    fn metadata(&self) -> Metadata {
        Metadata::read(self.message.control())
    }
}

impl<A> Deref for Datagram<A> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.message.payload()
    }
}

impl<A> AsRef<[u8]> for Datagram<A> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<A: Address + fmt::Debug> fmt::Debug for Datagram<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagram")
            .field("peer", &self.peer())
            .field("len", &self.len())
            .field("original_len", &self.original_len())
            .finish_non_exhaustive()
    }
}

/// Several datagrams of one sender that the kernel received as one message (UDP GRO).
///
/// Each is [`stride`](Self::stride) bytes long, except that the last may be shorter. A train
/// dereferences to all payloads, one after the other. A datagram that came alone is a train of one.
///
/// Trains are for programs that handle many datagrams at once.
/// [`recv`](crate::DatagramSocket::recv) returns the same datagrams one by one.
///
/// ```
/// # ebbtide::run(async {
/// use ebbtide::net::UdpSocket;
///
/// let socket = UdpSocket::bind("127.0.0.1:0")?;
/// socket.connect(socket.local_addr()?)?;
/// socket.send_gso(b"onetwothreefour", 3).await?;
/// let mut datagrams = Vec::new();
/// while datagrams.len() < 5 {
///     let train = socket.recv_train().await?.expect("the socket is not drained");
///     datagrams.extend(train.datagrams().map(<[u8]>::to_vec));
/// }
/// assert_eq!(datagrams[..3], [b"one", b"two", b"thr"]);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub struct Train {
    message: ReceivedMessage,
}

impl Train {
    pub(crate) fn new(message: ReceivedMessage) -> Self {
        Self { message }
    }

    /// The sender's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::from_raw(self.message.name())
    }

    /// The length in bytes of each datagram but the last. 0 if the train is a single empty
    /// datagram.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.message.stride()
    }

    /// The number of datagrams, at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        self.message.count()
    }

    /// The payloads of the datagrams, in order of arrival.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let (payload, stride) = (&self[..], self.stride());
        (0..self.count()).map(move |index| {
            let start = index * stride;
            &payload[start..payload.len().min(start + stride)]
        })
    }

    /// The congestion notification of the datagrams: see [`Datagram::ecn`].
    #[must_use]
    pub fn ecn(&self) -> Option<EcnCodepoint> {
        self.metadata().ecn
    }

    /// The local address to which the datagrams were sent: see [`Datagram::dst_ip`].
    #[must_use]
    pub fn dst_ip(&self) -> Option<IpAddr> {
        self.metadata().dst_ip
    }

    /// The index of the interface on which the datagrams arrived: see
    /// [`Datagram::interface_index`].
    #[must_use]
    pub fn interface_index(&self) -> Option<u32> {
        self.metadata().interface_index
    }

    /// The time at which the kernel received the first of them: see [`Datagram::timestamp`].
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.metadata().timestamp
    }

    /// How many messages the kernel had dropped on the socket before: see [`Datagram::drop_count`].
    #[must_use]
    pub fn drop_count(&self) -> Option<u32> {
        self.metadata().drop_count
    }

    fn metadata(&self) -> Metadata {
        Metadata::read(self.message.control())
    }
}

impl Deref for Train {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.message.payload()
    }
}

impl fmt::Debug for Train {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Train")
            .field("peer", &self.peer())
            .field("len", &self.len())
            .field("stride", &self.stride())
            .finish_non_exhaustive()
    }
}
