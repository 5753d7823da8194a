//! [`Message`]: what one sendmmsg(2) is told of each message.

use std::ops::Range;

use super::address::RawAddress;
use super::control::ControlBuffer;

/// Messages that are handed to the kernel in one call: enough to make the call itself cheap.
pub(crate) const MESSAGES_PER_CALL: usize = 64;

/// One message to the kernel.
pub(crate) struct Message {
    pub(crate) name: RawAddress,
    /// Which slices it consists of, of those that are passed beside it.
    pub(crate) slices: Range<usize>,
    pub(crate) control: ControlBuffer,
}
