//! [`Queued`]: what one message brought, as it waits in an inbox: a datagram, or a train of several
//! that the kernel received as one (UDP GRO).

use ebbtide_runtime::driver::ReceivedMessage;

use super::inbox::Several;

/// A received message with what is left of its datagrams. All but the last are equally long.
#[derive(Debug)]
pub(crate) struct Queued {
    message: ReceivedMessage,
    /// Bytes of each datagram but the last. At least 1.
    segment_size: u32,
}

impl Queued {
    /// What `message` brought; `segment_size` is the length of its datagrams if it is a train.
    #[inline]
    pub(crate) fn new(message: ReceivedMessage, segment_size: Option<usize>) -> Self {
        let single = u32::MAX;
        let segment_size =
            segment_size.map_or(single, |size| u32::try_from(size).unwrap_or(single));
        Self { message, segment_size }
    }

    /// Bytes of each datagram but the last, which may be shorter.
    pub(crate) fn stride(&self) -> usize {
        (self.segment_size as usize).min(self.message.len())
    }

    pub(crate) fn message(&self) -> &ReceivedMessage {
        &self.message
    }

    #[inline]
    pub(crate) fn message_mut(&mut self) -> &mut ReceivedMessage {
        &mut self.message
    }

    #[inline]
    pub(crate) fn into_message(self) -> ReceivedMessage {
        self.message
    }
}

impl Several for Queued {
    #[inline]
    fn count(&self) -> usize {
        // An empty datagram is one, too.
        let (len, size) = (self.message.len(), self.segment_size as usize);
        if len <= size { 1 } else { len.div_ceil(size) }
    }

    #[inline]
    fn split_off_first(&mut self) -> Option<Self> {
        let size = self.segment_size as usize;
        if self.message.len() <= size {
            return None;
        }
        let message = self.message.split_off_first(size);
        Some(Self { message, segment_size: u32::MAX })
    }
}
