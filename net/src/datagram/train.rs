//! [`Queued`]: what one message brought, as it waits in an inbox: a datagram, or a train of several
//! that the kernel received as one (UDP GRO).

use ebbtide_runtime::driver::ReceivedMessage;

use super::inbox::Several;

/// A received message with what is left of its datagrams. All but the last are equally long.
#[derive(Debug)]
pub(crate) struct Queued {
    message: ReceivedMessage,
    /// Bytes of each datagram but the last. At least 1.
    segment_size: usize,
}

impl Queued {
    /// What `message` brought; `segment_size` is the length of its datagrams if it is a train.
    pub(crate) fn new(message: ReceivedMessage, segment_size: Option<usize>) -> Self {
        Self { message, segment_size: segment_size.unwrap_or(usize::MAX) }
    }

    /// Bytes of each datagram but the last, which may be shorter.
    pub(crate) fn stride(&self) -> usize {
        self.segment_size.min(self.message.len())
    }

    pub(crate) fn message(&self) -> &ReceivedMessage {
        &self.message
    }

    pub(crate) fn message_mut(&mut self) -> &mut ReceivedMessage {
        &mut self.message
    }

    pub(crate) fn into_message(self) -> ReceivedMessage {
        self.message
    }
}

impl Several for Queued {
    fn count(&self) -> usize {
        // An empty datagram is one, too.
        self.message.len().div_ceil(self.segment_size).max(1)
    }

    fn split_off_first(&mut self) -> Option<Self> {
        if self.message.len() <= self.segment_size {
            return None;
        }
        let message = self.message.split_off_first(self.segment_size);
        Some(Self { message, segment_size: usize::MAX })
    }
}
