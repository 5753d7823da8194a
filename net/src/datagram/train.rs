//! [`Queued`]: what one message brought, as it waits in an inbox: a datagram, or a train of several
//! that the kernel received as one (UDP GRO).
//!
//! What waits has no destructor, so that it moves in registers: the messages themselves lie in
//! buffers of the pool, of which it holds the names, or beside the inbox ([`Messages`]), in the same
//! order.

use std::collections::VecDeque;

use ebbtide_runtime::buffer::Pool;
use ebbtide_runtime::driver::{Arrived, Layout, ReceivedMessage};

use super::inbox::Several;

/// What waits in an inbox.
#[derive(Debug)]
#[must_use]
pub(super) enum Queued {
    Pooled(Arrived),
    /// The first message of [`Messages::outside`], of which `count` datagrams are left.
    Outside {
        count: u32,
    },
}

/// Where the messages of an inbox lie.
pub(super) struct Messages {
    pool: Pool,
    layout: Layout,
    /// Those that are not in the pool, in order.
    outside: VecDeque<ReceivedMessage>,
}

impl Messages {
    pub(super) fn new(pool: Pool, layout: Layout) -> Self {
        Self { pool, layout, outside: VecDeque::new() }
    }

    #[inline]
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Takes in a message that is not in the pool.
    pub(super) fn put_outside(&mut self, message: ReceivedMessage) -> Queued {
        let count = u32::try_from(message.count()).expect("a datagram of a train has some bytes");
        self.outside.push_back(message);
        Queued::Outside { count }
    }

    /// Moves a message out of the pool, so that its buffer can serve other sockets.
    #[cold]
    pub(super) fn move_outside(&mut self, message: Arrived) -> Queued {
        let mut message = message.into_message(&self.pool, self.layout);
        message.leave_pool();
        self.put_outside(message)
    }
}

impl Several for Queued {
    type Source = Messages;
    type Taken = ReceivedMessage;

    #[inline]
    fn count(&self) -> usize {
        match self {
            Self::Pooled(message) => message.count(),
            Self::Outside { count } => *count as usize,
        }
    }

    #[inline]
    fn take_first(&mut self, messages: &mut Messages) -> Option<ReceivedMessage> {
        match self {
            Self::Pooled(message) => message.split_off_first(&messages.pool, messages.layout),
            Self::Outside { count } => {
                let message = messages.outside.front_mut().expect("it lies beside the inbox");
                let first = message.split_off_first()?;
                *count -= 1;
                Some(first)
            }
        }
    }

    #[inline]
    fn take(self, messages: &mut Messages) -> ReceivedMessage {
        match self {
            Self::Pooled(message) => message.into_message(&messages.pool, messages.layout),
            Self::Outside { .. } => messages.outside.pop_front().expect("it lies beside the inbox"),
        }
    }
}
