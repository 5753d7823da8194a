//! Received messages, as inboxes keep them and as programs hold them.

use std::fmt;
use std::num::NonZeroU32;
use std::slice;

use crate::buffer::{Contents, Header, Layout, Outside, Share};

#[cfg(any(test, fuzzing))]
pub(crate) mod properties;

/// A buffer of the pool that a completion says has been filled, as an inbox keeps it.
#[derive(Debug)]
#[must_use]
pub struct Filled {
    buffer: Share,
    /// Bytes that the completion says, header included.
    len: u32,
    /// Whether there are no control messages with the message, not even for want of room.
    is_plain: bool,
}

impl Filled {
    /// `buffer` was filled to `len`.
    #[inline]
    pub(crate) fn new(buffer: Share, len: u32) -> Self {
        let is_plain = is_plain(buffer.bytes());
        Self { buffer, len, is_plain }
    }

    /// Whether there are no control messages with the message, not even for want of room.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// The message in it; `payload` is how much of one was asked for.
    ///
    /// # Panics
    ///
    /// If it is shorter than what the layout reserves, which the kernel never says.
    #[inline(always)]
    pub fn into_message(self, layout: Layout, payload: usize) -> ReceivedMessage {
        ReceivedMessage::find(self.buffer, self.len, layout, payload)
    }

    /// The message in it, which goes on waiting.
    ///
    /// # Panics
    ///
    /// As [`into_message`](Self::into_message).
    pub fn peek(&self, layout: Layout, payload: usize) -> ReceivedMessage {
        ReceivedMessage::find(self.buffer.clone(), self.len, layout, payload)
    }
}

/// Looks at the header, and nobody waits for it: when a receiver wants it, it is near.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    Header::read(bytes).is_some_and(|header| (header.control == 0) & !header.lacks_control())
}

/// Messages of one receive, which came one after the other.
#[derive(Debug)]
pub struct Batch<'a> {
    filled: slice::IterMut<'a, Option<Filled>>,
}

impl<'a> Batch<'a> {
    #[inline]
    pub(in crate::driver) fn new(filled: &'a mut [Option<Filled>]) -> Self {
        Self { filled: filled.iter_mut() }
    }
}

impl Iterator for Batch<'_> {
    type Item = Filled;

    #[inline]
    fn next(&mut self) -> Option<Filled> {
        self.filled.next()?.take()
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.filled.size_hint()
    }
}

impl ExactSizeIterator for Batch<'_> {}

/// A message that was received, in the memory that it was received into: a pointer, which names the
/// memory and says what lies where in it.
pub struct ReceivedMessage {
    share: Share,
}

/// A message that was copied behind others.
pub(super) struct Copied {
    contents: Contents,
    /// Where in the chunk it starts.
    offset: usize,
}

impl Copied {
    /// Copies the message that lies in the first `len` bytes of `memory`.
    pub(super) fn copy(chunk: &mut Vec<u8>, memory: &[u8], len: usize, layout: Layout) -> Self {
        let offset = chunk.len();
        let contents = Contents::find(memory, len, layout)
            .expect("the memory holds all that the layout reserves");
        Self { contents: contents.append(memory, chunk), offset }
    }

    /// The message, which lies in what was the chunk.
    pub(super) fn in_memory(self, chunk: Outside) -> ReceivedMessage {
        ReceivedMessage { share: Share::outside(chunk, self.offset, self.contents) }
    }
}

impl ReceivedMessage {
    /// The message of `len` bytes in a buffer.
    #[inline(always)]
    fn find(buffer: Share, len: u32, layout: Layout, payload: usize) -> Self {
        // The kernel fills a buffer to its end, which is rounded up: what counts is what was asked
        // for.
        let len = (len as usize).min(layout.payload_offset() + payload);
        let contents = Contents::find(buffer.bytes(), len, layout)
            .expect("a completion is no shorter than what its layout reserves");
        buffer.set_contents(contents);
        Self { share: buffer }
    }

    #[inline]
    fn contents(&self) -> Contents {
        self.share.contents()
    }

    /// It is a train, of datagrams of `bytes` bytes each, except that the last may be shorter.
    pub fn set_segment_size(&mut self, bytes: NonZeroU32) {
        self.share.set_contents(self.contents().with_segment_size(bytes));
    }

    /// Bytes of each datagram but the last.
    pub fn stride(&self) -> usize {
        self.contents().stride()
    }

    /// How many datagrams there are; at least 1.
    #[inline]
    pub fn count(&self) -> usize {
        self.contents().count()
    }

    /// Cuts the first datagram of a train off, as a message of its own that shares the memory, the
    /// sender and the control messages. `None`: there is only one.
    pub fn split_off_first(&mut self) -> Option<Self> {
        let mut contents = self.contents();
        let first = contents.split_off_first()?;
        self.share.set_contents(contents);
        Some(Self { share: self.share.part(first) })
    }

    /// Moves the message out of the pool into memory of its own length, so that the buffer can
    /// serve others.
    pub fn leave_pool(&mut self) {
        if let Some(copy) = self.share.copied_out() {
            self.share = copy;
        }
    }

    /// The program takes it: from now on it counts against the pool, also if it left it.
    #[inline]
    pub fn claim(&self) {
        if let Some(memory) = self.share.outside_memory() {
            memory.claim();
        }
    }

    /// Whether the message lies in a buffer of the pool.
    pub fn is_pooled(&self) -> bool {
        self.share.outside_memory().is_none()
    }

    /// The sender's address as the kernel wrote it, at most as long as the layout reserves.
    pub fn name(&self) -> &[u8] {
        self.contents().name(self.share.bytes())
    }

    /// The control messages, clamped as the address is.
    #[inline]
    pub fn control(&self) -> &[u8] {
        self.contents().control(self.share.bytes())
    }

    /// The payload, as much of it as fitted.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.contents().payload(self.share.bytes())
    }

    /// Bytes of payload that are there.
    #[inline]
    pub fn len(&self) -> usize {
        self.contents().captured()
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of payload that the sender sent.
    pub fn original_len(&self) -> usize {
        self.contents().original()
    }

    /// Whether the sender sent more than is in the buffer. Control messages that found no room do
    /// not count, because any peer of a Unix socket can send some; except where they may have told
    /// that it is a train.
    #[inline]
    pub fn is_truncated(&self) -> bool {
        self.contents().is_truncated()
    }

    /// Whether control messages found no room.
    pub fn lacks_control(&self) -> bool {
        Header::read(self.share.bytes()).is_some_and(|header| header.lacks_control())
    }

    /// What it lacks may have told that it is a train: from now on it counts as truncated.
    pub fn doubt(&mut self) {
        self.share.set_contents(self.contents().doubtful());
    }
}

impl fmt::Debug for ReceivedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedMessage").field("share", &self.share).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::tests::{LAYOUT, bytes};
    use crate::buffer::{Buffer, FilledBy, Pool};

    fn received(pool: &Pool, buffer: Buffer, len: usize) -> ReceivedMessage {
        Filled::new(buffer.freeze(), len as u32).into_message(LAYOUT, pool.payload_capacity())
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
