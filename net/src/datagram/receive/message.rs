//! [`ReceivedMessage`]: a received message, as an inbox and a program store it.

use std::fmt;
use std::mem;
use std::num::NonZeroU32;
use std::ops::Range;
use std::rc::Rc;

use ebbtide_runtime::buffer::{Pool, Share};
use ebbtide_runtime::driver::{Filled, Header, Layout};

use super::contents::Contents;

#[cfg(any(test, fuzzing))]
pub(crate) mod properties;

/// A message in a buffer of the pool that has not been opened, as an inbox stores it.
#[derive(Debug)]
#[must_use]
pub(super) struct Unopened {
    buffer: Share,
    /// The length that the completion reported, header included.
    len: u32,
    /// Whether the message has no control messages, and none were cut off.
    is_plain: bool,
}

impl Unopened {
    #[inline]
    pub(super) fn new(filled: Filled) -> Self {
        let Filled { buffer, len } = filled;
        let is_plain = is_plain(buffer.bytes());
        Self { buffer, len, is_plain }
    }

    /// Whether the message has no control messages, and none were cut off.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Opens the message. `payload` is the payload capacity of the buffer.
    ///
    /// # Panics
    ///
    /// If the message is shorter than what the layout reserves, which the kernel never reports.
    #[inline(always)]
    pub(super) fn into_message(self, layout: Layout, payload: usize) -> ReceivedMessage {
        ReceivedMessage::find(self.buffer, self.len, layout, payload)
    }

    /// Opens the message without taking it out of the inbox.
    ///
    /// # Panics
    ///
    /// If the message is shorter than what the layout reserves, which the kernel never reports.
    pub(super) fn peek(&self, layout: Layout, payload: usize) -> ReceivedMessage {
        ReceivedMessage::find(self.buffer.clone(), self.len, layout, payload)
    }
}

/// Reads the header when the message arrives. Nothing waits for that memory access, and the header
/// is in the cache when a receiver wants the message.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    Header::read(bytes).is_some_and(|header| (header.control == 0) & !header.lacks_control())
}

/// A received message, in the memory into which it was received. It is a pointer to the record of
/// that memory, which says where its parts are.
pub(crate) struct ReceivedMessage {
    share: Share,
}

/// Messages that were read while the socket held its share of the pool. They are copied one behind
/// the other into blocks of exact length. Several share a block of up to [`CHUNK`] bytes.
#[derive(Default)]
pub(super) struct Copies {
    chunk: Vec<u8>,
    /// Where each message starts in the chunk, and its contents.
    messages: Vec<(Range<usize>, Contents)>,
}

/// The size in bytes of a block of memory that messages share. The block stays allocated while a
/// receiver keeps any of them.
const CHUNK: usize = 16 * 1024;

impl Copies {
    /// Copies the message in the first `len` bytes of `memory`. When a block is full, passes its
    /// messages to `each`.
    pub(super) fn push(
        &mut self,
        memory: &[u8],
        len: usize,
        layout: Layout,
        pool: &Pool,
        each: impl FnMut(ReceivedMessage),
    ) {
        let contents = Contents::find(memory, len, layout)
            .expect("the memory holds all that the layout reserves");
        let start = self.chunk.len();
        let contents = contents.append(memory, &mut self.chunk);
        self.messages.push((start..self.chunk.len(), contents));
        if self.chunk.len() >= CHUNK {
            self.hand_over(pool, each);
        }
    }

    /// Passes the rest to `each`.
    pub(super) fn hand_over(&mut self, pool: &Pool, mut each: impl FnMut(ReceivedMessage)) {
        let bytes = Rc::new(mem::take(&mut self.chunk).into_boxed_slice());
        for (range, contents) in self.messages.drain(..) {
            each(ReceivedMessage { share: pool.unpooled(&bytes, range, contents.note()) });
        }
    }
}

impl ReceivedMessage {
    /// Finds the message of `len` bytes in a buffer.
    #[inline(always)]
    fn find(buffer: Share, len: u32, layout: Layout, payload: usize) -> Self {
        // The buffer is rounded up, and the kernel fills it to its end. Only the requested payload
        // size counts.
        let len = (len as usize).min(layout.payload_offset() + payload);
        let contents = Contents::find(buffer.bytes(), len, layout)
            .expect("a completion is no shorter than what its layout reserves");
        buffer.set_note(contents.note());
        Self { share: buffer }
    }

    #[inline]
    fn contents(&self) -> Contents {
        Contents::of(self.share.note())
    }

    /// Makes the message a train of datagrams of `bytes` bytes each, of which the last may be
    /// shorter.
    pub(crate) fn set_segment_size(&mut self, bytes: NonZeroU32) {
        self.share.set_note(self.contents().with_segment_size(bytes).note());
    }

    /// The length of each datagram but the last.
    pub(crate) fn stride(&self) -> usize {
        self.contents().stride()
    }

    /// The number of datagrams, at least 1.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.contents().count()
    }

    /// Splits off the first datagram of a train, as a separate message that shares the memory, the
    /// sender and the control messages. Returns `None` if there is only one datagram.
    pub(crate) fn split_off_first(&mut self) -> Option<Self> {
        let mut contents = self.contents();
        let first = contents.split_off_first()?;
        self.share.set_note(contents.note());
        Some(Self { share: self.share.part(first.note()) })
    }

    /// Moves the message out of the pool into memory of exact length, so that others can use the
    /// buffer.
    pub(crate) fn leave_pool(&mut self) {
        let contents = self.contents();
        let copy = |bytes: &[u8], copy: &mut Vec<u8>| contents.append(bytes, copy).note();
        if let Some(copy) = self.share.copied_out(copy) {
            self.share = copy;
        }
    }

    /// The program takes the message. From now on it counts against the pool, even if it has left
    /// it.
    #[inline]
    pub(crate) fn claim(&self) {
        self.share.claim();
    }

    /// Whether the message lies in a buffer of the pool.
    pub(crate) fn is_pooled(&self) -> bool {
        self.share.is_pooled()
    }

    /// The sender's address as the kernel wrote it, clamped to the reserved length.
    pub(crate) fn name(&self) -> &[u8] {
        self.contents().name(self.share.bytes())
    }

    /// The control messages, clamped to the reserved length.
    #[inline]
    pub(crate) fn control(&self) -> &[u8] {
        self.contents().control(self.share.bytes())
    }

    /// The payload that fitted into the buffer.
    #[inline]
    pub(crate) fn payload(&self) -> &[u8] {
        self.contents().payload(self.share.bytes())
    }

    /// The length of the payload that the sender sent.
    pub(crate) fn original_len(&self) -> usize {
        self.contents().original()
    }

    /// Whether the sender sent more than is in the buffer.
    ///
    /// Control messages that were cut off do not count, because any peer of a Unix socket can send
    /// some (docs/kernel.md, K-UNIX-7). They do count if they may have included the segment length
    /// of a train.
    #[inline]
    pub(crate) fn is_truncated(&self) -> bool {
        self.contents().is_truncated()
    }

    /// Whether control messages were cut off.
    pub(crate) fn lacks_control(&self) -> bool {
        Header::read(self.share.bytes()).is_some_and(|header| header.lacks_control())
    }

    /// The control messages that were cut off may have included the segment length of a train. From
    /// now on the message counts as truncated.
    pub(crate) fn doubt(&mut self) {
        self.share.set_note(self.contents().doubtful().note());
    }
}

impl fmt::Debug for ReceivedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedMessage").field("share", &self.share).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::contents::tests::{LAYOUT, bytes};
    use super::*;
    use ebbtide_runtime::buffer::{Buffer, FilledBy};

    fn unopened(buffer: Share, len: usize) -> Unopened {
        Unopened::new(Filled { buffer, len: len as u32 })
    }

    fn received(pool: &Pool, buffer: Buffer, len: usize) -> ReceivedMessage {
        unopened(buffer.freeze(), len).into_message(LAYOUT, pool.payload_capacity())
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
