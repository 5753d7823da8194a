//! Datagram sockets.
//!
//! [`Endpoint`] is what all datagram sockets share: a [`RegisteredSocket`], a [`ReceiveHalf`] and a
//! [`SendHalf`]. [`UdpSocket`] and [`UnixDatagram`] add addresses and options.
//!
//! [`Endpoint`]: endpoint::Endpoint
//! [`RegisteredSocket`]: registered::RegisteredSocket
//! [`ReceiveHalf`]: receive::ReceiveHalf
//! [`SendHalf`]: send::SendHalf

mod aside;
mod endpoint;
mod message;
mod receive;
mod registered;
mod send;
mod socket;
mod socket_option;
#[cfg(test)]
#[cfg(not(miri))]
mod states;
mod udp;
mod udp_options;
mod unix;
#[cfg(test)]
#[cfg(not(miri))]
mod unix_states;

pub use self::message::{Datagram, Train};
#[cfg(fuzzing)]
pub(crate) use self::receive::message_properties;
pub use self::receive::{Incoming, Recv, RecvBatch, RecvFrom, RecvTrain};
pub use self::send::{SendBatch, Sending, Transmit, Writable};
pub use self::socket::DatagramSocket;
pub use self::udp::UdpSocket;
pub use self::udp_options::UdpOptions;
pub use self::unix::{UnixAddr, UnixDatagram};
#[cfg(ebbtide_model)]
pub(crate) use self::{udp_options::open_on as open_udp, unix::open_on as open_unix};
