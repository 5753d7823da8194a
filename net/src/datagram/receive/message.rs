//! [`ReceivedMessage`]: received messages, as inboxes keep them and as programs hold them.

use std::fmt;
use std::mem;
use std::num::NonZeroU32;
use std::rc::Rc;

use ebbtide_runtime::buffer::{Pool, Share};
use ebbtide_runtime::driver::{Filled, Header, Layout};

use super::contents::Contents;

#[cfg(any(test, fuzzing))]
pub(crate) mod properties;

/// A message in a buffer of the pool that has not been opened, as an inbox keeps it.
#[derive(Debug)]
#[must_use]
pub(super) struct Unopened {
    buffer: Share,
    /// Bytes that the completion says, header included.
    len: u32,
    /// Whether there are no control messages with the message, not even for want of room.
    is_plain: bool,
}

impl Unopened {
    #[inline]
    pub(super) fn new(filled: Filled) -> Self {
        let Filled { buffer, len } = filled;
        let is_plain = is_plain(buffer.bytes());
        Self { buffer, len, is_plain }
    }

    /// Whether there are no control messages with the message, not even for want of room.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// The message in it; `payload` is how much of one was asked for.
    ///
    /// # Panics
    ///
    /// If it is shorter than what the layout reserves, which the kernel never says.
    #[inline(always)]
    pub(super) fn into_message(self, layout: Layout, payload: usize) -> ReceivedMessage {
        ReceivedMessage::find(self.buffer, self.len, layout, payload)
    }

    /// The message in it, which goes on waiting.
    ///
    /// # Panics
    ///
    /// As [`into_message`](Self::into_message).
    pub(super) fn peek(&self, layout: Layout, payload: usize) -> ReceivedMessage {
        ReceivedMessage::find(self.buffer.clone(), self.len, layout, payload)
    }
}

/// Looks at the header, and nobody waits for it: when a receiver wants it, it is near.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    Header::read(bytes).is_some_and(|header| (header.control == 0) & !header.lacks_control())
}

/// A message that was received, in the memory that it was received into: a pointer, which names the
/// memory and says what lies where in it.
pub(crate) struct ReceivedMessage {
    share: Share,
}

/// Messages that were read past the pool, copied one behind the other into memory of their length.
/// Several share one block of memory, until it is [`CHUNK`] bytes long.
#[derive(Default)]
pub(super) struct Copies {
    chunk: Vec<u8>,
    /// Where each starts in the chunk, and what lies in it.
    messages: Vec<(usize, Contents)>,
}

/// Bytes of messages that share a block of memory, which stays as long as a receiver keeps any of
/// them.
const CHUNK: usize = 16 * 1024;

impl Copies {
    /// Copies the message that lies in the first `len` bytes of `memory`. Hands messages to `each` when
    /// their block is full.
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
        self.messages.push((start, contents.append(memory, &mut self.chunk)));
        if self.chunk.len() >= CHUNK {
            self.hand_over(pool, each);
        }
    }

    /// Hands the rest to `each`.
    pub(super) fn hand_over(&mut self, pool: &Pool, mut each: impl FnMut(ReceivedMessage)) {
        let bytes = Rc::new(mem::take(&mut self.chunk).into_boxed_slice());
        let mut end = bytes.len();
        let mut starts = Vec::with_capacity(self.messages.len());
        for (start, contents) in self.messages.drain(..).rev() {
            starts.push((start..end, contents));
            end = start;
        }
        for (range, contents) in starts.into_iter().rev() {
            each(ReceivedMessage { share: pool.unpooled(&bytes, range, contents.note()) });
        }
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
        buffer.set_note(contents.note());
        Self { share: buffer }
    }

    #[inline]
    fn contents(&self) -> Contents {
        Contents::of(self.share.note())
    }

    /// It is a train, of datagrams of `bytes` bytes each, except that the last may be shorter.
    pub(crate) fn set_segment_size(&mut self, bytes: NonZeroU32) {
        self.share.set_note(self.contents().with_segment_size(bytes).note());
    }

    /// Bytes of each datagram but the last.
    pub(crate) fn stride(&self) -> usize {
        self.contents().stride()
    }

    /// How many datagrams there are; at least 1.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.contents().count()
    }

    /// Cuts the first datagram of a train off, as a message of its own that shares the memory, the
    /// sender and the control messages. `None`: there is only one.
    pub(crate) fn split_off_first(&mut self) -> Option<Self> {
        let mut contents = self.contents();
        let first = contents.split_off_first()?;
        self.share.set_note(contents.note());
        Some(Self { share: self.share.part(first.note()) })
    }

    /// Moves the message out of the pool into memory of its own length, so that the buffer can
    /// serve others.
    pub(crate) fn leave_pool(&mut self) {
        let contents = self.contents();
        let copy = |bytes: &[u8], copy: &mut Vec<u8>| contents.append(bytes, copy).note();
        if let Some(copy) = self.share.copied_out(copy) {
            self.share = copy;
        }
    }

    /// The program takes it: from now on it counts against the pool, also if it left it.
    #[inline]
    pub(crate) fn claim(&self) {
        self.share.claim();
    }

    /// Whether the message lies in a buffer of the pool.
    pub(crate) fn is_pooled(&self) -> bool {
        self.share.is_pooled()
    }

    /// The sender's address as the kernel wrote it, at most as long as the layout reserves.
    pub(crate) fn name(&self) -> &[u8] {
        self.contents().name(self.share.bytes())
    }

    /// The control messages, clamped as the address is.
    #[inline]
    pub(crate) fn control(&self) -> &[u8] {
        self.contents().control(self.share.bytes())
    }

    /// The payload, as much of it as fitted.
    #[inline]
    pub(crate) fn payload(&self) -> &[u8] {
        self.contents().payload(self.share.bytes())
    }

    /// Bytes of payload that the sender sent.
    pub(crate) fn original_len(&self) -> usize {
        self.contents().original()
    }

    /// Whether the sender sent more than is in the buffer. Control messages that found no room do
    /// not count, because any peer of a Unix socket can send some; except where they may have told
    /// that it is a train.
    #[inline]
    pub(crate) fn is_truncated(&self) -> bool {
        self.contents().is_truncated()
    }

    /// Whether control messages found no room.
    pub(crate) fn lacks_control(&self) -> bool {
        Header::read(self.share.bytes()).is_some_and(|header| header.lacks_control())
    }

    /// What it lacks may have told that it is a train: from now on it counts as truncated.
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
