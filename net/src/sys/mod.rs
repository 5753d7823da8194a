//! What is asked of the kernel: socket options, addresses and control messages as it takes them, and
//! the system calls that `socket2` lacks. Nothing here knows what a socket is used for.

pub(crate) mod address;
pub(crate) mod adopted;
pub(crate) mod control;
pub(crate) mod message;
#[cfg(ebbtide_model)]
pub(crate) mod model;
pub(crate) mod option;
pub(crate) mod socket;
