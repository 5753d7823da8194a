//! [`Message`]: one message of a sendmmsg(2).

use std::ops::Range;

use super::address::RawAddress;
use super::control::ControlBuffer;

/// The most messages in one call. With that many, the cost of the call itself is small.
pub(crate) const MESSAGES_PER_CALL: usize = 64;

/// One message to the kernel.
pub(crate) struct Message {
    pub(crate) name: RawAddress,
    /// Its contents: a range of the slices that are passed along with the messages.
    pub(crate) slices: Range<usize>,
    pub(crate) control: ControlBuffer,
}
