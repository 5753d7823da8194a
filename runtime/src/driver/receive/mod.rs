//! Receives: their sinks, what is in flight, and how messages are read.

mod message;
mod receives;
mod recvmmsg;
mod sink;

#[cfg(fuzzing)]
pub(super) use self::message::properties;
pub use self::message::{Batch, Filled, ReceivedMessage};
pub use self::receives::ReceiveKey;
pub(super) use self::receives::{Cancel, Receive, Receives};
pub use self::recvmmsg::{READ_BATCH, Scratch, Source};
pub use self::sink::{Armed, Sink, Verdict};
