//! [`Contents`]: where the parts of a message are in memory. Pure.

use std::num::NonZeroU32;

use ebbtide_runtime::buffer::Note;
use ebbtide_runtime::driver::{HEADER_LEN, Header, Layout};

/// The `segment_size` of a single datagram.
const SINGLE: u32 = u32::MAX;

/// The `segment_size` of a message that may be a train of unknown segment length.
const DOUBTFUL: u32 = u32::MAX - 1;

/// Where the parts of a message are in its memory. The message is a datagram, a train, or the rest
/// of a train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    name_space: u32,
    control_space: u32,
    /// The offset of the payload.
    start: u32,
    /// The length of the payload in memory.
    captured: u32,
    /// The length of the payload that the sender sent.
    original: u32,
    /// The length of each datagram but the last. At least 1.
    segment_size: u32,
}

impl Contents {
    /// Converts it for the record of a buffer.
    #[inline(always)]
    pub(super) fn note(self) -> Note {
        let Self { name_space, control_space, start, captured, original, segment_size } = self;
        Note([name_space, control_space, start, captured, original, segment_size])
    }

    /// Converts it back from the record of a buffer.
    #[inline(always)]
    pub(super) fn of(note: Note) -> Self {
        let Note([name_space, control_space, start, captured, original, segment_size]) = note;
        Self { name_space, control_space, start, captured, original, segment_size }
    }

    /// Finds the parts of a message of `len` bytes in `bytes`. Returns `None` if `bytes` is too
    /// short for what the layout reserves, which the kernel never does.
    #[inline(always)]
    pub(super) fn find(bytes: &[u8], len: usize, layout: Layout) -> Option<Self> {
        let start = layout.payload_offset();
        let available = len.min(bytes.len()).checked_sub(start)?;
        let header = Header::read(bytes)?;
        let available = u32::try_from(available).unwrap_or(u32::MAX);
        Some(Self {
            name_space: short(layout.name()),
            control_space: short(layout.control()),
            start: short(start),
            captured: available.min(header.original),
            original: header.original,
            segment_size: SINGLE,
        })
    }

    /// Appends a copy of the message to `chunk`, without reserved bytes that it did not use.
    /// Returns where the parts are in the copy.
    pub(super) fn append(&self, bytes: &[u8], chunk: &mut Vec<u8>) -> Self {
        let (name, control) = (self.name(bytes), self.control(bytes));
        for part in [&bytes[..HEADER_LEN], name, control, self.payload(bytes)] {
            chunk.extend_from_slice(part);
        }
        let (name_space, control_space) = (short(name.len()), short(control.len()));
        let start = short(HEADER_LEN) + name_space + control_space;
        Self { name_space, control_space, start, ..*self }
    }

    /// The sender's address as the kernel wrote it, clamped to the reserved length. The reported
    /// length may exceed it, and the bytes after the address are stale (docs/kernel.md, K-RECV-6).
    pub(super) fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let len = Header::read(bytes).map_or(0, |header| header.name as usize);
        &bytes[HEADER_LEN..][..len.min(self.name_space as usize)]
    }

    /// The control messages, clamped to the reserved length.
    #[inline]
    pub(super) fn control<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let len = Header::read(bytes).map_or(0, |header| header.control as usize);
        let start = HEADER_LEN + self.name_space as usize;
        &bytes[start..][..len.min(self.control_space as usize)]
    }

    /// The payload that fitted into the buffer.
    #[inline]
    pub(super) fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start as usize..][..self.captured()]
    }

    /// The length of the payload in memory.
    #[inline]
    pub(super) fn captured(&self) -> usize {
        self.captured as usize
    }

    /// The length of the payload that the sender sent.
    pub(super) fn original(&self) -> usize {
        self.original as usize
    }

    #[inline]
    pub(super) fn is_truncated(&self) -> bool {
        self.original > self.captured || self.segment_size == DOUBTFUL
    }

    /// Makes it a train of datagrams of `bytes` bytes each, of which the last may be shorter.
    pub(super) fn with_segment_size(self, bytes: NonZeroU32) -> Self {
        Self { segment_size: bytes.get(), ..self }
    }

    /// Control messages that were cut off may have included the segment length of a train. From now
    /// on the message counts as truncated.
    pub(super) fn doubtful(self) -> Self {
        Self { segment_size: DOUBTFUL, ..self }
    }

    /// The length of each datagram but the last.
    pub(super) fn stride(&self) -> usize {
        self.segment_size.min(self.captured) as usize
    }

    /// The number of datagrams. An empty datagram counts as one.
    #[inline]
    pub(super) fn count(&self) -> usize {
        if self.captured <= self.segment_size {
            return 1;
        }
        self.captured.div_ceil(self.segment_size) as usize
    }

    /// Splits off the first datagram. Returns `None` if there is only one.
    pub(super) fn split_off_first(&mut self) -> Option<Self> {
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

/// A length within a buffer.
#[inline(always)]
fn short(len: usize) -> u32 {
    u32::try_from(len).expect("buffers are bounded")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const LAYOUT: Layout = Layout::new(8, 4);

    /// A message as the kernel writes it.
    pub(crate) fn bytes(name: u32, control: u32, original: u32, payload: &[u8]) -> Vec<u8> {
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
        let contents = Contents::find(bytes, len, LAYOUT).unwrap();
        (contents.captured, contents.original)
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
            assert_eq!(Contents::find(&bytes[..len], len, LAYOUT), None, "{len} bytes");
        }
    }
}
