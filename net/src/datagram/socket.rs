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

/// A datagram socket: a channel with the kernel at the other end. What
/// [`UdpSocket`](crate::UdpSocket) and [`UnixDatagram`](crate::UnixDatagram) have in common, and
/// dereference to. Code that works on both takes this, and is handed one by `into()`.
///
/// It receives from the moment that it is made, whether or not somebody waits: datagrams belong to
/// the socket, not to the future that asks for one. Receiving takes `&self`; put the socket into an
/// [`Rc`] to use it in several tasks.
///
/// What happens to a datagram:
///
/// * A dropped receive future loses nothing, so `select`, `timeout` and `abort` around one are
///   safe.
/// * After [`drain`](Self::drain), or at the end of the runtime, receivers are handed what the
///   kernel had queued, and then `None`.
/// * Dropping the *socket* throws away what was not received, as closing any socket does. Datagrams
///   that had been taken from the kernel are counted ([`SocketStats::discarded`]); of the others it
///   is only known that there were some ([`SocketStats::abandoned`]). Drain first to lose none.
///
/// It belongs to the thread and the runtime that made it.
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
        // A descriptor of the user's own: a send that waits for room may keep the endpoint for a
        // while. Made first, so that nothing has been taken if there is none left.
        let socket = self.endpoint.as_fd().try_clone_to_owned()?.into();
        let taken = self.endpoint.detach()?;
        Ok((socket, taken.into_iter().map(Datagram::new).collect()))
    }

    /// Waits for a datagram. `None`: the socket is sealed, and everything that was queued has been
    /// handed out.
    ///
    /// No copy is made: the datagram is the buffer that the kernel wrote it into.
    ///
    /// # Errors
    ///
    /// A pending error of the socket, for example `ConnectionRefused` when a connected peer is
    /// gone. It is reported once, in its place between the datagrams, and receiving goes on.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing: the datagram stays with the socket for the next receiver.
    /// Nor does a future that is kept and not polled: another receiver that waits is woken instead.
    pub fn recv(&self) -> Recv<'_, A> {
        Recv::new(&self.endpoint)
    }

    /// Waits for a datagram and copies it into `memory`. Gives the number of bytes copied and the
    /// sender, or `None` as [`recv`](Self::recv) does. What does not fit into `memory` is cut off;
    /// [`recv`](Self::recv) never cuts.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv).
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub fn recv_from<'a>(&'a self, memory: &'a mut [u8]) -> RecvFrom<'a, A> {
        RecvFrom::new(&self.endpoint, memory)
    }

    /// Waits for a datagram, and appends it and up to `most - 1` others that have arrived to
    /// `batch`. Gives how many; 0 means that the socket is drained (or that `most` is 0).
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv), when the error comes before any datagram. An error between
    /// datagrams ends the batch and comes with the next call.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub fn recv_batch<'a>(
        &'a self,
        batch: &'a mut Vec<Datagram<A>>,
        most: usize,
    ) -> RecvBatch<'a, A> {
        RecvBatch::new(&self.endpoint, batch, most)
    }

    /// Takes a datagram that is queued already; looks into the kernel's queue as well. `None` as
    /// [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing is queued, else those of [`recv`](Self::recv).
    pub fn try_recv(&self) -> io::Result<Option<Datagram<A>>> {
        Ok(self.receive(Take::One)?.map(Datagram::new))
    }

    /// Every datagram, as a stream that ends when the socket is sealed and drained.
    ///
    /// # Cancellation
    ///
    /// Dropping the stream loses nothing.
    pub fn incoming(&self) -> Incoming<'_, A> {
        Incoming::new(&self.endpoint)
    }

    /// Waits until there is room for a datagram: in the send buffer, and for a connected Unix
    /// socket in the peer's queue. For use with `try_send`; `send` waits by itself. Like a send, it
    /// holds up the exit.
    ///
    /// # Errors
    ///
    /// That the runtime has ended.
    ///
    /// # Cancellation
    ///
    /// Dropping the future changes nothing.
    pub fn writable(&self) -> Writable<'_> {
        Writable::new(&self.endpoint)
    }

    /// Seals the socket: nothing more is queued on it. From then on the receive methods hand out what
    /// is left, here and in the kernel, and then `None`: this is what closing a channel is to its
    /// receiver.
    ///
    /// UDP peers see their later datagrams vanish, as with a closed port but without an error; the
    /// kernel counts them ([`SocketStats::refused`]). Unix peers get `BrokenPipe`. The socket can
    /// still send. A UDP socket that shares its address leaves its share to the others first
    /// ([`UdpOptions::reuse_port`](crate::UdpOptions::reuse_port)). Other descriptors of the same
    /// socket (from `dup`, or inherited) are sealed too; the seal of a UDP socket comes off when this
    /// one is closed.
    ///
    /// A socket that is to be left ([`Exit::Leave`]) is not sealed: it hands out what was taken from
    /// the kernel, and then `None`.
    ///
    /// Needs no `await` for itself: when it returns, the seal is in place. It takes a few
    /// microseconds.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` where a UDP socket cannot be sealed, because its filter is locked
    /// (`SO_LOCK_FILTER`) or is a BPF program (`SO_ATTACH_BPF`), which could not be put back: what was
    /// queued is handed out nevertheless, and what comes later
    /// is read when it is drained again. `TimedOut` where the socket
    /// could not be read to the end of its queue, because the kernel has no memory for any request,
    /// for 5 seconds, or reading it only fails: it can be drained again.
    pub fn drain(&self) -> io::Result<()> {
        self.endpoint.drain()
    }

    /// What a drain does to the socket.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.endpoint.exit()
    }

    /// Sets what a drain does to the socket: the one of the runtime, and [`drain`](Self::drain).
    ///
    /// ```
    /// # ebbtide_net::doc_run(async {
    /// use ebbtide_net::{Exit, UnixDatagram};
    ///
    /// let (inside, _peer) = UnixDatagram::pair()?;
    /// inside.set_exit(Exit::SealLast)?; // what is handled at the exit still reaches it
    /// # std::io::Result::Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the socket was drained; that the runtime has ended.
    pub fn set_exit(&self, exit: Exit) -> io::Result<()> {
        self.endpoint.set_exit(exit)
    }

    /// What has happened on the socket so far.
    #[must_use]
    pub fn stats(&self) -> SocketStats {
        self.endpoint.stats()
    }

    /// The size of the kernel's receive buffer in bytes (`SO_RCVBUF`), twice what was asked for.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn recv_buffer_size(&self) -> io::Result<usize> {
        self.socket()?.recv_buffer_size()
    }

    /// Asks for a receive buffer of `bytes`. The kernel grants at most `net.core.rmem_max`; what
    /// arrives while it is full is lost before any program could see it.
    ///
    /// More than fits into an `int` asks for the largest `int`.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_recv_buffer_size(&self, bytes: usize) -> io::Result<()> {
        self.socket()?.set_recv_buffer_size(size(bytes))
    }

    /// The size of the kernel's send buffer in bytes (`SO_SNDBUF`).
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn send_buffer_size(&self) -> io::Result<usize> {
        self.socket()?.send_buffer_size()
    }

    /// Asks for a send buffer of `bytes`, at most `net.core.wmem_max`.
    ///
    /// More than fits into an `int` asks for the largest `int`.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn set_send_buffer_size(&self, bytes: usize) -> io::Result<()> {
        self.socket()?.set_send_buffer_size(size(bytes))
    }

    /// Takes a pending error of the socket (`SO_ERROR`). One that was received already is that of a
    /// receiver, if there is any.
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
    /// Frees the address and throws away what was not received, which the runtime counts as
    /// discarded.
    fn drop(&mut self) {
        self.endpoint.close();
    }
}

impl<A> AsFd for DatagramSocket<A> {
    /// For setting options that have no method here. Reading from the descriptor takes datagrams
    /// out of order.
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

/// Makes a newtype of a [`DatagramSocket`] what it is.
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
            /// For setting options that have no method here. Reading from the descriptor takes
            /// datagrams out of order.
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
