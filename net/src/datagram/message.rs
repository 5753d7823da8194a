//! [`Datagram`]: a received datagram, in the buffer that the kernel wrote it into.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::Deref;

use ebbtide_runtime::driver::ReceivedMessage;

use crate::address::Address;

/// A received datagram. Dereferences to its payload.
///
/// It holds the buffer that the kernel wrote it into, and gives it back to the pool when it is
/// dropped. Whoever keeps many of them keeps sockets from receiving (nothing is lost: further
/// datagrams wait in the kernel), so copy out what is to be kept for long: `datagram.to_vec()`.
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
    pub fn peer(&self) -> A {
        A::from_raw(self.message.name())
    }

    /// Whether the sender sent more than the buffer holds: see
    /// [`Builder::buffer_size`](ebbtide_runtime::Builder::buffer_size).
    pub fn is_truncated(&self) -> bool {
        self.message.is_truncated()
    }

    /// How many bytes the sender sent. More than `len()` exactly when it is truncated.
    pub fn original_len(&self) -> usize {
        self.message.original_len()
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
