//! Datagram sockets.
//!
//! ```text
//! completion -> Endpoint (a sink) -> ReceiveMachine: what to do with the receive
//!                                 -> Inbox -> wakes one receiver
//! recv       <- Datagram          <- Inbox
//! ```
//!
//! [`Endpoint`] is what all datagram sockets share, and the only part that touches the driver; the
//! machine, the inbox and the waiters are pure. [`UdpSocket`](crate::UdpSocket) and
//! [`UnixDatagram`](crate::UnixDatagram) add their addresses.

mod endpoint;
mod future;
mod inbox;
mod message;
mod receive;
mod socket;
mod udp;
mod unix;
mod waiters;

pub(crate) use self::endpoint::{Endpoint, Family};
pub use self::future::{Incoming, Recv, RecvBatch, RecvFrom, Sending, Writable};
pub use self::message::Datagram;
pub use self::socket::DatagramSocket;
pub use self::udp::{UdpOptions, UdpSocket};
pub use self::unix::{UnixAddr, UnixDatagram};
