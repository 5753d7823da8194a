//! The memory that datagrams arrive in.
//!
//! [`Pool`] owns one block of buffers of equal size; one message is written into each, by the
//! kernel on its own (a ring) or when the driver asks for it. A filled buffer is handed out as a
//! share, a pointer to its record, and goes back when the last share is dropped: no copy, no
//! allocation per message, and nothing but a pointer to move from hand to hand.
//!
//! Invariant: a buffer is at any time either free, or held by as many as its record counts.

mod block;
mod canary;
mod mapping;
mod pool;
mod record;
mod ring;
mod window;

pub(crate) use mapping::Pages;
pub use pool::{Buffer, FilledBy, Pool};
pub use record::{Note, Share};
pub(crate) use ring::BufferRing;
