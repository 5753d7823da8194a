//! The sockets of [`ebbtide`](https://docs.rs/ebbtide). They know no ring: only operations, sinks
//! and buffers of `ebbtide-runtime`.
//!
//! Programs use the crate `ebbtide`, whose module `net` this is.

#![warn(clippy::unwrap_used)]
// What does not fit is an error, or the largest that fits; nothing wraps on its way to the kernel.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)
)]

mod address;
mod adopted;
mod control;
mod datagram;
mod listen_fds;
#[cfg(ebbtide_model)]
#[doc(hidden)]
pub mod model;
mod operation;
mod option;
mod socket;

pub use address::Address;
pub use control::EcnCodepoint;
pub use datagram::{
    Datagram, DatagramSocket, Incoming, Recv, RecvBatch, RecvFrom, RecvTrain, SendBatch, Sending,
    Train, Transmit, UdpOptions, UdpSocket, UnixAddr, UnixDatagram, Writable,
};
pub use ebbtide_runtime::{Exit, SocketStats};
pub use listen_fds::{ListenFd, listen_fds};

/// Runs the examples of this crate's documentation.
#[doc(hidden)]
pub fn doc_run<F: Future<Output = std::io::Result<()>>>(example: F) {
    ebbtide_runtime::run(example).expect("the example succeeds");
}

/// For `fuzz/`: what must hold for every address, and for all control messages.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub fn address(input: &[u8]) {
        crate::address::properties::hold(input);
    }

    pub fn control(input: &[u8]) {
        crate::control::properties::hold(input);
    }
}
