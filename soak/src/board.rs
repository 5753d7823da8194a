//! [`Board`]: the channels that senders can send to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ebbtide::net::UnixAddr;
use parking_lot::Mutex;

use super::SENDERS;

/// Where the datagrams of a channel go.
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
    /// How many threads are sending to it.
    active: AtomicUsize,
    /// How many sends the kernel has accepted, from each thread and from the sender inside the
    /// runtime.
    sent: [AtomicU64; SENDERS + 1],
    /// How many empty datagrams the kernel has accepted. They have no number.
    sent_empty: AtomicU64,
}

/// While a thread holds this, the channel is not settled.
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

    /// How many numbered datagrams each sender has sent.
    pub(super) fn sent_by_sender(&self) -> [u64; SENDERS + 1] {
        std::array::from_fn(|sender| self.next_number(sender))
    }

    /// The number of the next datagram of `sender`.
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

    /// A channel. `choose` picks its index from the number of channels.
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
