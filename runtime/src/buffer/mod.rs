//! The memory that datagrams arrive in.
//!
//! [`Pool`] owns one block of buffers of equal size; one datagram is written into each, by the
//! kernel on its own (a ring) or when the driver asks for it. A filled buffer is handed out as an
//! owned [`Buffer`] and returns itself when it is dropped: no copy, no allocation per datagram.
//!
//! Invariant: a buffer is at any time either free, or in exactly one [`Buffer`].

mod canary;
mod mapping;
mod pool;
mod ring;
mod window;

pub use pool::{Buffer, Pool};
pub(crate) use pool::{FilledBy, Outside, Parked};
