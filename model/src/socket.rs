//! [`Socket`]: a datagram socket in memory, with a record of every datagram that it ever had.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::Rc;

/// The kind of a datagram socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Udp,
    Unix,
}

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Its name in the trace.
    pub(crate) number: u64,
    pub(crate) payload: Rc<[u8]>,
    pub(crate) sender: u16,
    /// The length of each datagram but the last, if this is a train that the kernel received as one
    /// (UDP GRO).
    pub(crate) segment_size: Option<usize>,
}

impl Datagram {
    /// How many datagrams this is.
    pub(crate) fn count(&self) -> u64 {
        let size = self.segment_size.unwrap_or(usize::MAX);
        self.payload.len().div_ceil(size).max(1) as u64
    }

    /// Splits a train into its datagrams.
    fn split(self) -> Vec<Self> {
        let Some(size) = self.segment_size else { return vec![self] };
        let chunks = self.payload.chunks(size);
        chunks.map(|chunk| Self { payload: chunk.into(), segment_size: None, ..self }).collect()
    }

    /// Its control message, as the kernel writes it.
    pub(crate) fn control(&self) -> Vec<u8> {
        let Some(size) = self.segment_size else { return Vec::new() };
        let mut bytes = (CONTROL_LEN - 4).to_ne_bytes().to_vec();
        bytes.extend(libc::SOL_UDP.to_ne_bytes());
        bytes.extend(libc::UDP_GRO.to_ne_bytes());
        bytes.extend((size as i32).to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }
}

/// The length of the control message with padding (`CMSG_SPACE` of an int).
pub(crate) const CONTROL_LEN: usize = 24;

/// What the kernel hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Datagram(Datagram),
    /// An error of the socket, by its errno.
    Error(i32),
}

/// The state of the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    Open,
    Sealed,
    /// The seal was refused, because the filter is locked.
    Refused,
}

pub(crate) struct Socket {
    pub(crate) kind: Kind,
    /// `None` once it was closed.
    pub(crate) descriptor: Option<RawFd>,
    /// How many datagrams it can queue.
    capacity: usize,
    queue: VecDeque<Datagram>,
    /// Sent, but not queued yet: another CPU is about to queue it. UDP only.
    pub(crate) wire: VecDeque<Datagram>,
    /// A pending error.
    pub(crate) error: Option<i32>,
    pub(crate) seal: Seal,
    /// True exactly when a direct read has found the sealed queue empty.
    pub(crate) is_read_out: bool,
    /// Unix sockets whose queue was full when this one sent to them.
    pub(crate) blocked_by: Vec<usize>,
    /// True exactly while its own send buffer is full. UDP only.
    pub(crate) send_buffer_full: bool,
    /// True exactly while a send has found its own send buffer full.
    pub(crate) send_buffer_blocks: bool,
    /// True from when there is space again until a wait for space begins.
    pub(crate) room_came: bool,
    /// The number of the descriptor that replaced it when it was closed.
    pub(crate) placeholder: Option<RawFd>,
    /// Whether it was open when the end of the runtime began, or was opened since.
    pub(crate) was_open_at_end: bool,
    pub(crate) ledger: Ledger,
}

/// What has happened to the datagrams of a socket.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Put on the queue.
    pub(crate) queued: u64,
    /// Taken from the queue by the program's side.
    pub(crate) taken: u64,
    /// The number of `taken` that were longer than the buffers.
    pub(crate) truncated: u64,
    /// Datagrams that were taken and not yet received, and the errors between them, in order.
    pub(crate) in_inbox: VecDeque<Arrival>,
    pub(crate) delivered: u64,
    /// The number of the last delivered datagram.
    pub(crate) last_delivered: Option<u64>,
    pub(crate) errors_delivered: u64,
    /// Taken, and lost with their completions.
    pub(crate) lost: u64,
    /// Dropped because the queue was full, before the seal or without one.
    pub(crate) dropped: u32,
    /// Dropped because of the seal.
    pub(crate) refused: u32,
    /// The drop count that was reported last.
    pub(crate) drops_told: u32,
    /// How often the socket was closed with queued datagrams that a peek has seen: 0 or 1.
    pub(crate) abandoned: u64,
    /// Receivers that wait.
    pub(crate) waiting: usize,
}

impl Ledger {
    /// Whether the first arrival is the rest of a train of which a part was delivered.
    pub(crate) fn is_within_train(&self) -> bool {
        matches!(self.in_inbox.front(), Some(Arrival::Datagram(datagram))
            if self.last_delivered == Some(datagram.number))
    }

    /// Datagrams that were taken, but not delivered.
    pub(crate) fn undelivered(&self) -> u64 {
        self.taken - self.delivered
    }
}

impl Socket {
    pub(crate) fn new(kind: Kind, descriptor: RawFd, capacity: usize) -> Self {
        Self {
            kind,
            descriptor: Some(descriptor),
            capacity,
            queue: VecDeque::new(),
            wire: VecDeque::new(),
            error: None,
            seal: Seal::Open,
            is_read_out: false,
            blocked_by: Vec::new(),
            send_buffer_full: false,
            send_buffer_blocks: false,
            room_came: false,
            placeholder: None,
            was_open_at_end: false,
            ledger: Ledger::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.descriptor.is_some()
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.seal == Seal::Sealed
    }

    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= self.capacity
    }

    /// Whether a send to it has to wait.
    pub(crate) fn blocks_senders(&self) -> bool {
        self.kind == Kind::Unix && self.is_open() && !self.is_sealed() && self.is_full()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether the end of the runtime had to read its queue to the end.
    pub(crate) fn was_read_out_at_end(&self) -> bool {
        self.was_open_at_end && self.is_sealed()
    }

    /// Whether a receive would return something.
    pub(crate) fn is_readable(&self) -> bool {
        self.error.is_some() || !self.queue.is_empty()
    }

    /// The kernel puts a datagram on the queue.
    pub(crate) fn put(&mut self, datagram: Datagram) {
        self.ledger.queued += datagram.count();
        self.queue.push_back(datagram);
    }

    /// A receive takes the next arrival: the pending error, or the first datagram of the queue.
    pub(crate) fn take(&mut self) -> Option<Arrival> {
        if let Some(error) = self.error.take() {
            // The inbox keeps only the last of consecutive errors.
            if let Some(Arrival::Error(last)) = self.ledger.in_inbox.back_mut() {
                *last = error;
            } else {
                self.ledger.in_inbox.push_back(Arrival::Error(error));
            }
            return Some(Arrival::Error(error));
        }
        let datagram = self.queue.pop_front()?;
        self.ledger.taken += datagram.count();
        if datagram.segment_size.is_none() {
            self.ledger.in_inbox.push_back(Arrival::Datagram(datagram.clone()));
        } else {
            let each = datagram.clone().split().into_iter().map(Arrival::Datagram);
            self.ledger.in_inbox.extend(each);
        }
        Some(Arrival::Datagram(datagram))
    }

    /// The arrival that was taken last is lost with its completion.
    pub(crate) fn lose_last(&mut self, buffer_size: usize) {
        let Some(Arrival::Datagram(last)) = self.ledger.in_inbox.back().cloned() else {
            unreachable!("a datagram was taken just now");
        };
        self.ledger.truncated -= u64::from(last.payload.len() > buffer_size);
        // A train has one number.
        while let Some(Arrival::Datagram(datagram)) = self.ledger.in_inbox.back()
            && datagram.number == last.number
        {
            self.ledger.in_inbox.pop_back();
            self.ledger.taken -= 1;
            self.ledger.lost += 1;
        }
    }

    /// Closes the socket. Its queue is discarded.
    pub(crate) fn close(&mut self) {
        self.descriptor = None;
        self.queue.clear();
        self.wire.clear();
        self.error = None;
    }
}

/// The address of a sender, as the kernel writes it.
pub(crate) fn name_of(kind: Kind, sender: u16) -> Vec<u8> {
    let name = |family: i32, len: usize| {
        let mut name = vec![0; len];
        name[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        name
    };
    match kind {
        Kind::Udp if sender.is_multiple_of(3) => {
            let mut name = name(libc::AF_INET6, 28);
            name[2..4].copy_from_slice(&(FIRST_PORT + sender).to_be_bytes());
            name[8..24].copy_from_slice(&std::net::Ipv6Addr::LOCALHOST.octets());
            name
        }
        Kind::Udp => {
            let mut name = name(libc::AF_INET, 16);
            name[2..4].copy_from_slice(&(FIRST_PORT + sender).to_be_bytes());
            name[4..8].copy_from_slice(&[127, 0, 0, 1]);
            name
        }
        // A socket without a name.
        Kind::Unix if sender.is_multiple_of(3) => Vec::new(),
        Kind::Unix => {
            let path = path_of(sender);
            let mut name = name(libc::AF_UNIX, 2 + path.len() + 1);
            name[2..][..path.len()].copy_from_slice(&path);
            name
        }
    }
}

/// The UDP port of the sender 0.
pub(crate) const FIRST_PORT: u16 = 20_000;

/// The number of digits at the end of a Unix sender's path.
const PATH_DIGITS: usize = 5;

/// The path of a Unix sender. Every third has the maximum length.
pub(crate) fn path_of(sender: u16) -> Vec<u8> {
    let digit = |unit: u16| b'0' + (sender / unit % 10) as u8;
    let digits = [digit(10_000), digit(1_000), digit(100), digit(10), digit(1)];
    let mut path = vec![b'0'; if sender % 3 == 2 { 107 } else { PATH_DIGITS }];
    let start = path.len() - PATH_DIGITS;
    path[start..].copy_from_slice(&digits);
    path
}

/// The Unix sender with this path.
pub(crate) fn sender_of(path: &[u8]) -> Option<u16> {
    let digits = path.last_chunk::<PATH_DIGITS>()?;
    let sender = str::from_utf8(digits).ok()?.parse().ok()?;
    (path == path_of(sender)).then_some(sender)
}
