//! The memory that datagrams arrive in.
//!
//! [`Pool`] owns one block of buffers of equal size and lends them to the kernel, which writes one
//! datagram into each. A filled buffer is handed out as an owned [`Buffer`] and returns itself to
//! the kernel when it is dropped: no copy, no allocation per datagram.
//!
//! Invariant: a buffer is at any time either with the kernel or in exactly one [`Buffer`].

mod mapping;
mod pool;
mod ring;

pub(crate) use pool::Spill;
pub use pool::{Buffer, Pool};
