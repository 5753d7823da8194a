//! Receives: their sinks, their state, and how messages are read.

mod batch;
mod layout;
mod receives;
mod recvmmsg;
mod sink;

pub use self::batch::{Batch, Filled};
pub use self::layout::{HEADER_LEN, Header, Layout};
pub use self::receives::ReceiveKey;
pub(super) use self::receives::{Cancel, Receive, Receives};
pub use self::recvmmsg::{READ_BATCH, Scratch, Source};
pub use self::sink::{Armed, Sink, Verdict};
