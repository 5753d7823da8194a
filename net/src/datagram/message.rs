//! [`Datagram`] and [`Train`]: what was received, in the buffer that the kernel wrote it into.

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
/// It holds the buffer that the kernel wrote it into, and gives it back to the pool when it is
/// dropped. Whoever keeps many of them keeps sockets from receiving (nothing is lost: further
/// datagrams wait in the kernel), so copy out what is to be kept for long: `datagram.to_vec()`.
/// Datagrams that came in one train (see [`UdpSocket::set_gro`](crate::UdpSocket::set_gro)) share a
/// buffer, which goes back with the last of them.
///
/// It may outlive its socket and its runtime.
///
/// ```
/// # ebbtide_net::doc_run(async {
/// use ebbtide_net::UdpSocket;
///
/// let socket = UdpSocket::bind("127.0.0.1:0")?;
/// socket.send_to(b"hello", socket.local_addr()?).await?;
/// let datagram = socket.recv().await?.expect("the socket is not drained");
/// assert_eq!(&datagram[..], b"hello");
/// assert_eq!(datagram.peer(), socket.local_addr()?);
/// # std::io::Result::Ok(())
/// # });
/// ```
pub struct Datagram<A = SocketAddr> {
    message: ReceivedMessage,
    address: PhantomData<fn() -> A>,
}

impl<A: Address> Datagram<A> {
    pub(crate) fn new(message: ReceivedMessage) -> Self {
        Self { message, address: PhantomData }
    }

    /// Who sent it. A Unix socket without a name of its own is unnamed.
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

    /// How many bytes the sender sent. More than `len()` exactly when it is truncated.
    #[must_use]
    pub fn original_len(&self) -> usize {
        self.message.original_len()
    }
}

impl Datagram<SocketAddr> {
    /// The congestion notification that it carried. `None` also where the socket does not ask for
    /// it: see [`UdpOptions::recv_ecn`](crate::UdpOptions::recv_ecn).
    #[must_use]
    pub fn ecn(&self) -> Option<EcnCodepoint> {
        self.metadata().ecn
    }

    /// The address of ours that it was sent to, if the socket asks for it: see
    /// [`UdpOptions::recv_dst_ip`](crate::UdpOptions::recv_dst_ip).
    #[must_use]
    pub fn dst_ip(&self) -> Option<IpAddr> {
        self.metadata().dst_ip
    }

    /// The interface that it came in by, if the socket asks for it: see
    /// [`UdpOptions::recv_dst_ip`](crate::UdpOptions::recv_dst_ip).
    #[must_use]
    pub fn interface_index(&self) -> Option<u32> {
        self.metadata().interface_index
    }

    /// When the kernel received it, if the socket asks for it: see
    /// [`UdpOptions::recv_timestamp`](crate::UdpOptions::recv_timestamp).
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.metadata().timestamp
    }

    /// How many messages the kernel had dropped on the socket when this one was queued, if any and
    /// if the socket asks for it: see
    /// [`UdpOptions::recv_drop_count`](crate::UdpOptions::recv_drop_count). Wraps.
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

/// Datagrams that the kernel received as one: several of one sender, each [`stride`](Self::stride)
/// bytes long except that the last may be shorter. Dereferences to their payloads, one after the
/// other. A datagram that came alone is a train of one.
///
/// For programs that handle many datagrams at once; to others, [`recv`](crate::UdpSocket::recv)
/// hands the same datagrams out one by one.
///
/// ```
/// # ebbtide_net::doc_run(async {
/// use ebbtide_net::UdpSocket;
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
/// # });
/// ```
pub struct Train {
    message: ReceivedMessage,
}

impl Train {
    pub(crate) fn new(message: ReceivedMessage) -> Self {
        Self { message }
    }

    /// Who sent them.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::from_raw(self.message.name())
    }

    /// Bytes of each datagram but the last. 0 if it is a single, empty one.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.message.stride()
    }

    /// How many datagrams there are; at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        self.message.count()
    }

    /// The payload of each datagram, in the order in which they came.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let (payload, stride) = (&self[..], self.stride());
        (0..self.count()).map(move |index| {
            let start = index * stride;
            &payload[start..payload.len().min(start + stride)]
        })
    }

    /// The congestion notification that they carried. See [`Datagram::ecn`].
    #[must_use]
    pub fn ecn(&self) -> Option<EcnCodepoint> {
        self.metadata().ecn
    }

    /// The address of ours that they were sent to. See [`Datagram::dst_ip`].
    #[must_use]
    pub fn dst_ip(&self) -> Option<IpAddr> {
        self.metadata().dst_ip
    }

    /// The interface that they came in by. See [`Datagram::interface_index`].
    #[must_use]
    pub fn interface_index(&self) -> Option<u32> {
        self.metadata().interface_index
    }

    /// When the kernel received the first of them. See [`Datagram::timestamp`].
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.metadata().timestamp
    }

    /// How many messages the kernel had dropped on the socket before. See [`Datagram::drop_count`].
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
