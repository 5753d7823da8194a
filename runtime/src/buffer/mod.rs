//! The memory that datagrams are received into.
//!
//! [`Pool`] owns a block of buffers of equal size. Each takes one message. A ring fills buffers
//! itself; epoll's driver fills them with recvmmsg. A filled buffer is handed out as a [`Share`], a
//! pointer to its record. The buffer returns to the pool when the last share is dropped. So a
//! message costs no copy and no allocation.
//!
//! Invariant: a buffer is either free, or has as many shares as its record counts.

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
