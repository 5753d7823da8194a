//! What the sockets need of the kernel: socket options, addresses, control messages, and system
//! calls that `socket2` lacks. Nothing here depends on what a socket is used for.

pub(crate) mod address;
pub(crate) mod adopted;
pub(crate) mod control;
pub(crate) mod message;
#[cfg(ebbtide_model)]
pub(crate) mod model;
pub(crate) mod option;
pub(crate) mod socket;
