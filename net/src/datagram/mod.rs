//! Datagram sockets.
//!
//! ```text
//! completion -> Endpoint (a sink) -> ReceiveMachine: what to do with the receive
//!                                 -> Inbox -> wakes one receiver
//! recv       <- Datagram          <- Inbox
//! ```
//!
//! [`Endpoint`] is what all datagram sockets share, and the only part that touches the driver:
//! `receiver.rs` and `sender.rs` are its two halves. The machine, the inbox and the waiters are pure. [`UdpSocket`](crate::UdpSocket) and
//! [`UnixDatagram`](crate::UnixDatagram) add their addresses.

mod aside;
mod audience;
mod endpoint;
mod future;
mod gro;
mod held;
mod inbox;
mod message;
mod outbox;
mod receive;
mod receiver;
mod sender;
mod socket;
mod socket_option;
mod space;
#[cfg(test)]
#[cfg(not(miri))]
mod states;
mod transmit;
mod udp;
mod unix;
#[cfg(test)]
#[cfg(not(miri))]
mod unix_states;
mod waiters;

pub(crate) use self::endpoint::{Endpoint, Family};
pub use self::future::{
    Incoming, Recv, RecvBatch, RecvFrom, RecvTrain, SendBatch, Sending, Writable,
};
pub use self::message::{Datagram, Train};
pub use self::socket::DatagramSocket;
pub use self::transmit::Transmit;
pub(crate) use self::transmit::{MESSAGES_PER_CALL, Message};
pub use self::udp::{UdpOptions, UdpSocket};
pub use self::unix::{UnixAddr, UnixDatagram};
#[cfg(ebbtide_model)]
pub(crate) use self::{udp::open_on as open_udp, unix::open_on as open_unix};
