//! [`Board`]: the channels that are open to senders now.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ebbtide::net::UnixAddr;
use parking_lot::Mutex;

use super::SENDERS;

/// Where a channel's datagrams go.
#[derive(Clone, Debug)]
pub(super) enum Destination {
    Udp(SocketAddr),
    Unix(UnixAddr),
}

/// One receiving socket, as senders see it.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) destination: Destination,
    is_open: AtomicBool,
    /// Threads that are sending to it.
    active: AtomicUsize,
    /// Sends that the kernel accepted, of each thread and of the sender inside the runtime.
    sent: [AtomicU64; SENDERS + 1],
    /// Empty datagrams that the kernel accepted; no number fits into them.
    sent_empty: AtomicU64,
}

/// Keeps a channel from being settled while a thread sends to it.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) channel: Arc<Channel>,
}

impl Channel {
    pub(super) fn new(destination: Destination) -> Arc<Self> {
        Arc::new(Self {
            destination,
            is_open: AtomicBool::new(true),
            active: AtomicUsize::new(0),
            sent: Default::default(),
            sent_empty: AtomicU64::new(0),
        })
    }

    pub(super) fn enter(self: Arc<Self>) -> Option<Sending> {
        self.active.fetch_add(1, Ordering::SeqCst);
        let sending = Sending { channel: self };
        sending.channel.is_open.load(Ordering::SeqCst).then_some(sending)
    }

    pub(super) fn close(&self) {
        self.is_open.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.active.load(Ordering::SeqCst) == 0
    }

    /// How many each sender has sent so far, of those that have a number.
    pub(super) fn sent_by_sender(&self) -> [u64; SENDERS + 1] {
        std::array::from_fn(|sender| self.next_number(sender))
    }

    /// The number of a sender's next datagram.
    pub(super) fn next_number(&self, sender: usize) -> u64 {
        self.sent[sender].load(Ordering::SeqCst)
    }

    pub(super) fn note_sent(&self, sender: usize, len: usize) {
        match len {
            0 => self.sent_empty.fetch_add(1, Ordering::SeqCst),
            _ => self.sent[sender].fetch_add(1, Ordering::SeqCst),
        };
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent_by_sender().iter().sum::<u64>() + self.sent_empty.load(Ordering::SeqCst)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.channel.active.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug, Default)]
pub(super) struct Board {
    channels: Mutex<Vec<Arc<Channel>>>,
}

impl Board {
    pub(super) fn post(&self, channel: &Arc<Channel>) {
        self.channels.lock().push(Arc::clone(channel));
    }

    pub(super) fn remove(&self, channel: &Arc<Channel>) {
        channel.close();
        self.channels.lock().retain(|posted| !Arc::ptr_eq(posted, channel));
    }

    /// A channel that `choose` picks by the number of channels.
    pub(super) fn pick(&self, choose: impl FnOnce(usize) -> usize) -> Option<Sending> {
        let channel = {
            let channels = self.channels.lock();
            match channels.len() {
                0 => return None,
                len => Arc::clone(&channels[choose(len)]),
            }
        };
        channel.enter()
    }
}
