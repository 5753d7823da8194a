//! Received messages, and the one memory layout that all receives share.
//!
//! A received message lies in its buffer as multishot recvmsg writes it (Linux 6.0,
//! `io_uring_prep_recvmsg_multishot(3)`): a header of 16 bytes, the space reserved for the address,
//! the space reserved for control messages, the payload. A direct read uses the same layout, so
//! there is one parser ([`Header`] and [`Payload`], pure) and one kind of received message.

// UNSAFETY: recvmsg takes a structure of raw pointers.
#![expect(unsafe_code, reason = "argued above")]

use std::fmt;
use std::mem;
use std::num::NonZeroU32;

use crate::buffer::{Buffer, Outside, Parked, Pool};

#[cfg(any(test, fuzzing))]
pub(crate) mod properties;

/// Bytes that multishot recvmsg writes in front of everything (`struct io_uring_recvmsg_out`).
pub(super) const HEADER_LEN: usize = 16;

/// Bytes of a cache line. Buffers start at one.
const CACHE_LINE: usize = 64;

/// How much room a socket reserves in front of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    name: u32,
    control: u32,
}

impl Layout {
    /// Room for an address of `name` bytes and control messages of `control` bytes.
    pub const fn new(name: u32, control: u32) -> Self {
        Self { name, control }
    }

    /// The same, and as much more for control messages as lets the payload start at a cache line.
    pub const fn aligned(name: u32, control: u32) -> Self {
        let start = Self::new(name, control).payload_offset();
        let padding = start.next_multiple_of(CACHE_LINE) - start;
        Self::new(name, control + padding as u32)
    }

    pub(super) const fn name(self) -> usize {
        self.name as usize
    }

    pub(super) const fn control(self) -> usize {
        self.control as usize
    }

    /// Where the control messages start.
    const fn control_offset(self) -> usize {
        HEADER_LEN + self.name()
    }

    /// Where the payload starts: by the reservation, whatever lengths the kernel reports.
    pub const fn payload_offset(self) -> usize {
        self.control_offset() + self.control()
    }

    /// The template that a multishot receive is armed with.
    pub(crate) fn template(self) -> libc::msghdr {
        // SAFETY: an all-zero msghdr is valid: null pointers and zero lengths.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_namelen = self.name;
        header.msg_controllen = self.control();
        header
    }
}

/// What lies in front of a received message (`struct io_uring_recvmsg_out`), as the kernel wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: u32,
    pub(super) control: u32,
    /// Payload bytes that the sender sent.
    pub(super) original: u32,
    pub(super) flags: u32,
}

impl Header {
    /// `None`: the bytes are too short to hold one.
    #[inline]
    fn read(bytes: &[u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let field = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_ne_bytes(bytes)
        };
        Some(Self { name: field(0), control: field(4), original: field(8), flags: field(12) })
    }

    /// Writes what `read` reads, as the kernel would: for direct reads.
    pub(super) fn write(&self, bytes: &mut [u8]) {
        let fields = [self.name, self.control, self.original, self.flags];
        for (chunk, field) in bytes[..HEADER_LEN].chunks_exact_mut(4).zip(fields) {
            chunk.copy_from_slice(&field.to_ne_bytes());
        }
    }

    /// The sender's address of the message in `bytes`, at most as long as the layout reserves.
    fn name_in(bytes: &[u8], layout: Layout) -> &[u8] {
        let len = Self::read(bytes).map_or(0, |header| header.name as usize);
        &bytes[HEADER_LEN..][..len.min(layout.name())]
    }

    /// The control messages of the message in `bytes`, at most as long as the layout reserves.
    #[inline]
    fn control_in(bytes: &[u8], layout: Layout) -> &[u8] {
        let len = Self::read(bytes).map_or(0, |header| header.control as usize);
        &bytes[layout.control_offset()..][..len.min(layout.control())]
    }

    /// Whether control messages found no room.
    #[inline]
    fn lacks_control(&self) -> bool {
        self.flags & libc::MSG_CTRUNC as u32 != 0
    }
}

/// Stands for the length of the datagrams of a train where a message is a single one.
const SINGLE: u32 = u32::MAX;

/// The same, where that is in doubt.
const DOUBTFUL: u32 = u32::MAX - 1;

/// Which bytes of a buffer are payload: of a datagram, or of what is left of a train, which is
/// several that the kernel received as one. Without padding, so that it is copied in two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Payload {
    start: u32,
    /// Payload bytes in the buffer.
    captured: u32,
    /// Payload bytes that the sender sent.
    original: u32,
    /// Bytes of each datagram but the last. At least 1.
    segment_size: u32,
}

impl Payload {
    /// The payload of a message of `len` bytes in `bytes`. `None`: the bytes are too short to hold
    /// what the layout reserves, which the kernel never does.
    #[inline(always)]
    fn find(bytes: &[u8], len: usize, layout: Layout) -> Option<Self> {
        let start = layout.payload_offset();
        let available = len.min(bytes.len()).checked_sub(start)?;
        let header = Header::read(bytes)?;
        let available = u32::try_from(available).unwrap_or(u32::MAX);
        Some(Self {
            start: start as u32,
            captured: available.min(header.original),
            original: header.original,
            segment_size: SINGLE,
        })
    }

    #[inline]
    fn is_truncated(&self) -> bool {
        self.original > self.captured || self.segment_size == DOUBTFUL
    }

    /// How many datagrams there are: an empty one is one, too.
    #[inline]
    fn count(&self) -> usize {
        if self.captured <= self.segment_size {
            return 1;
        }
        self.captured.div_ceil(self.segment_size) as usize
    }

    /// Cuts the first datagram off. `None`: there is only one.
    fn split_off_first(&mut self) -> Option<Self> {
        let len = self.segment_size;
        if self.captured <= len {
            return None;
        }
        let first = Self { captured: len, original: len, segment_size: SINGLE, ..*self };
        self.start += len;
        self.captured -= len;
        self.original -= len;
        Some(first)
    }
}

/// A buffer of the pool that a completion says has been filled, as an inbox keeps it: one word,
/// not looked at yet. It has no destructor: whoever drops it instead of making a
/// [`ReceivedMessage`] of it keeps the buffer from the pool.
#[derive(Debug)]
#[must_use]
pub struct Filled {
    buffer: Parked,
    /// Bytes that the completion says, header included.
    len: u32,
}

impl Filled {
    #[inline]
    pub(crate) fn new(buffer: Parked, len: u32) -> Self {
        Self { buffer, len }
    }

    /// Whether there are no control messages with the message, not even for want of room.
    #[inline]
    pub fn is_plain(&self, pool: &Pool) -> bool {
        let bytes = pool.bytes(&self.buffer);
        Header::read(bytes).is_some_and(|header| header.control == 0 && !header.lacks_control())
    }

    /// The message in it.
    ///
    /// # Panics
    ///
    /// If it is shorter than what the layout reserves, which the kernel never says.
    #[inline(always)]
    pub fn into_message(self, pool: &Pool, layout: Layout) -> ReceivedMessage {
        let len = self.len;
        ReceivedMessage::find(pool.unpark(self.buffer), len, pool, layout)
    }

    /// The message in it, which goes on waiting.
    ///
    /// # Panics
    ///
    /// As [`into_message`](Self::into_message).
    pub fn peek(&self, pool: &Pool, layout: Layout) -> ReceivedMessage {
        ReceivedMessage::find(pool.share(&self.buffer), self.len, pool, layout)
    }
}

/// A message that was received, in the memory that it was received into.
pub struct ReceivedMessage {
    memory: Memory,
    payload: Payload,
    layout: Layout,
    /// Where in the memory its header is: 0 in a buffer of the pool.
    start: u32,
}

enum Memory {
    /// A buffer of the pool, which returns to the kernel when nobody holds it any more.
    Pooled(Buffer),
    /// Copied out of the pool, or never in it; cut off after the payload.
    Outside(Outside),
}

impl Memory {
    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Pooled(buffer) => buffer,
            Self::Outside(bytes) => bytes,
        }
    }

    fn share(&self) -> Self {
        match self {
            Self::Pooled(buffer) => Self::Pooled(buffer.share()),
            Self::Outside(bytes) => Self::Outside(bytes.share()),
        }
    }
}

/// A message that was copied behind others, without the bytes that it reserved but did not need.
pub(super) struct Copied {
    payload: Payload,
    layout: Layout,
    start: u32,
}

impl Copied {
    /// Copies the message that lies in the first `len` bytes of `memory`.
    pub(super) fn copy(chunk: &mut Vec<u8>, memory: &[u8], len: usize, layout: Layout) -> Self {
        let payload = Payload::find(memory, len, layout)
            .expect("the memory holds all that the layout reserves");
        Self::append(chunk, memory, payload, layout)
    }

    fn append(chunk: &mut Vec<u8>, bytes: &[u8], payload: Payload, layout: Layout) -> Self {
        let start = chunk.len() as u32;
        let (name, control) = (Header::name_in(bytes, layout), Header::control_in(bytes, layout));
        let layout = Layout::new(name.len() as u32, control.len() as u32);
        let contents = &bytes[payload.start as usize..][..payload.captured as usize];
        for part in [&bytes[..HEADER_LEN], name, control, contents] {
            chunk.extend_from_slice(part);
        }
        let payload = Payload { start: start + layout.payload_offset() as u32, ..payload };
        Self { payload, layout, start }
    }

    /// The message, which lies in what was the chunk.
    pub(super) fn in_memory(self, memory: Outside) -> ReceivedMessage {
        let Self { payload, layout, start } = self;
        ReceivedMessage { memory: Memory::Outside(memory), payload, layout, start }
    }
}

impl ReceivedMessage {
    /// The message of `len` bytes in a buffer of `pool`.
    #[inline(always)]
    fn find(buffer: Buffer, len: u32, pool: &Pool, layout: Layout) -> Self {
        // The kernel fills a buffer to its end, which is rounded up: what counts is what was asked
        // for.
        let len = (len as usize).min(layout.payload_offset() + pool.payload_capacity());
        let payload = Payload::find(&buffer, len, layout)
            .expect("a completion is no shorter than what its layout reserves");
        Self { memory: Memory::Pooled(buffer), payload, layout, start: 0 }
    }

    /// It is a train, of datagrams of `bytes` bytes each, except that the last may be shorter.
    pub fn set_segment_size(&mut self, bytes: NonZeroU32) {
        self.payload.segment_size = bytes.get();
    }

    /// Bytes of each datagram but the last.
    pub fn stride(&self) -> usize {
        self.payload.segment_size.min(self.payload.captured) as usize
    }

    /// How many datagrams there are; at least 1.
    #[inline]
    pub fn count(&self) -> usize {
        self.payload.count()
    }

    /// Cuts the first datagram of a train off, as a message of its own that shares the memory, the
    /// sender and the control messages. `None`: there is only one.
    pub fn split_off_first(&mut self) -> Option<Self> {
        let payload = self.payload.split_off_first()?;
        let (layout, start) = (self.layout, self.start);
        Some(Self { memory: self.memory.share(), payload, layout, start })
    }

    /// Moves the message out of the pool into memory of its own length, so that the buffer can
    /// serve others.
    pub fn leave_pool(&mut self) {
        if let Memory::Pooled(buffer) = &self.memory {
            let mut bytes = Vec::new();
            let copy = Copied::append(&mut bytes, buffer, self.payload, self.layout);
            let memory = buffer.spill(bytes.into());
            *self = copy.in_memory(memory);
        }
    }

    /// The program takes it: from now on it counts against the pool, also if it left it.
    #[inline]
    pub fn claim(&self) {
        if let Memory::Outside(bytes) = &self.memory {
            bytes.claim();
        }
    }

    /// Whether the message lies in a buffer of the pool.
    pub fn is_pooled(&self) -> bool {
        matches!(self.memory, Memory::Pooled(_))
    }

    /// From its header on.
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[self.start as usize..]
    }

    /// The sender's address as the kernel wrote it, at most as long as the layout reserves: the
    /// kernel reports the true length, and the bytes behind it are stale data of an earlier
    /// message.
    pub fn name(&self) -> &[u8] {
        Header::name_in(self.bytes(), self.layout)
    }

    /// The control messages, clamped as the address is.
    #[inline]
    pub fn control(&self) -> &[u8] {
        Header::control_in(self.bytes(), self.layout)
    }

    /// The payload, as much of it as fitted.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.memory.bytes()[self.payload.start as usize..][..self.payload.captured as usize]
    }

    /// Bytes of payload that are there.
    #[inline]
    pub fn len(&self) -> usize {
        self.payload.captured as usize
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.payload.captured == 0
    }

    /// Bytes of payload that the sender sent.
    pub fn original_len(&self) -> usize {
        self.payload.original as usize
    }

    /// Whether the sender sent more than is in the buffer. Control messages that found no room do
    /// not count, because any peer of a Unix socket can send some; except where they may have told
    /// that it is a train.
    #[inline]
    pub fn is_truncated(&self) -> bool {
        self.payload.is_truncated()
    }

    /// Whether control messages found no room.
    pub fn lacks_control(&self) -> bool {
        Header::read(self.bytes()).is_some_and(|header| header.lacks_control())
    }

    /// What it lacks may have told that it is a train: from now on it counts as truncated.
    pub fn doubt(&mut self) {
        self.payload.segment_size = DOUBTFUL;
    }
}

impl fmt::Debug for ReceivedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedMessage")
            .field("payload", &self.payload)
            .field("pooled", &self.is_pooled())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::FilledBy;

    const LAYOUT: Layout = Layout::new(8, 4);

    fn bytes(name: u32, control: u32, original: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [name, control, original, 0] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend([b'n'; 8]);
        bytes.extend([b'c'; 4]);
        bytes.extend(payload);
        bytes
    }

    fn lengths(bytes: &[u8], len: usize) -> (u32, u32) {
        let payload = Payload::find(bytes, len, LAYOUT).unwrap();
        (payload.captured, payload.original)
    }

    fn received(pool: &Pool, buffer: Buffer, len: usize) -> ReceivedMessage {
        Filled::new(buffer.park(), len as u32).into_message(pool, LAYOUT)
    }

    fn message(bytes: &[u8]) -> ReceivedMessage {
        let pool = Pool::new(1, 100, FilledBy::Driver).unwrap();
        let mut buffer = pool.take_free().unwrap();
        buffer[..bytes.len()].copy_from_slice(bytes);
        received(&pool, buffer, bytes.len())
    }

    /// Fails when the address is not clamped to the reservation.
    #[test]
    fn an_address_longer_than_its_reservation_is_clamped() {
        let message = message(&bytes(200, 300, 3, b"abc"));
        assert_eq!((message.name(), message.control()), (&b"nnnnnnnn"[..], &b"cccc"[..]));
        assert_eq!((message.payload(), message.original_len()), (&b"abc"[..], 3));
    }

    #[test]
    fn a_truncated_message_keeps_its_true_length() {
        let bytes = bytes(8, 0, 1000, b"abc");
        assert_eq!(lengths(&bytes, bytes.len()), (3, 1000));
    }

    #[test]
    fn an_empty_message_has_no_payload() {
        let bytes = bytes(8, 0, 0, b"");
        assert_eq!(lengths(&bytes, bytes.len()), (0, 0));
    }

    #[test]
    fn bytes_beyond_the_completion_are_not_payload() {
        let bytes = bytes(8, 0, 3, b"abcdefgh");
        assert_eq!(lengths(&bytes, LAYOUT.payload_offset() + 2), (2, 3));
    }

    /// Fails when the payload is not clamped to what was sent, or to what is in the buffer.
    #[test]
    fn a_payload_ends_where_the_datagram_or_the_buffer_does() {
        let sent_less = bytes(8, 0, 3, b"abcdefgh");
        assert_eq!(lengths(&sent_less, sent_less.len()), (3, 3));
        let sent_more = bytes(8, 0, 1000, b"abc");
        assert_eq!(lengths(&sent_more, sent_more.len() + 1), (3, 1000));
    }

    #[test]
    fn a_message_shorter_than_its_layout_is_refused() {
        let bytes = bytes(8, 0, 3, b"");
        for len in 0..LAYOUT.payload_offset() {
            assert_eq!(Payload::find(&bytes[..len], len, LAYOUT), None, "{len} bytes");
        }
    }

    #[test]
    fn the_datagrams_of_a_train_share_its_buffer_and_give_it_back_once() {
        let bytes = bytes(8, 4, 7, b"aabbccd");
        let pool = Pool::new(1, 100, FilledBy::Driver).unwrap();
        let mut buffer = pool.take_free().unwrap();
        buffer[..bytes.len()].copy_from_slice(&bytes);
        let mut train = received(&pool, buffer, bytes.len());
        train.set_segment_size(NonZeroU32::new(2).unwrap());
        assert_eq!((train.count(), train.stride()), (4, 2));
        let parts: Vec<_> = (0..3).map(|_| train.split_off_first().unwrap()).collect();
        assert!(train.split_off_first().is_none());
        assert_eq!((train.payload(), train.original_len()), (&b"d"[..], 1));
        for (part, expected) in parts.iter().zip([b"aa", b"bb", b"cc"]) {
            assert_eq!((part.payload(), part.name()), (&expected[..], train.name()));
            assert!(!part.is_truncated());
        }
        for part in parts {
            drop(part);
            assert_eq!(pool.free(), 0);
        }
        drop(train);
        assert_eq!(pool.free(), 1);
    }

    #[test]
    fn a_train_outside_the_pool_counts_once_however_many_hold_it() {
        let pool = Pool::new(1, 100, FilledBy::Driver).unwrap();
        let bytes = bytes(8, 4, 4, b"aabb");
        let mut buffer = pool.take_free().unwrap();
        buffer[..bytes.len()].copy_from_slice(&bytes);
        let mut train = received(&pool, buffer, bytes.len());
        train.leave_pool();
        assert_eq!(pool.free(), 1);
        train.set_segment_size(NonZeroU32::new(2).unwrap());
        let first = train.split_off_first().unwrap();
        first.claim();
        train.claim();
        assert_eq!(pool.free(), 0);
        drop(first);
        assert_eq!((pool.free(), train.payload()), (0, &b"bb"[..]));
        drop(train);
        assert_eq!(pool.free(), 1);
    }
}
