//! [`Contents`]: which message lies in a piece of memory, and where. Pure.
//!
//! A received message lies as multishot recvmsg writes it (Linux 6.0,
//! `io_uring_prep_recvmsg_multishot(3)`): a header of 16 bytes, the space reserved for the address,
//! the space reserved for control messages, the payload. A direct read uses the same layout, so
//! there is one parser.

use std::num::NonZeroU32;

use crate::limits::MAX_BUFFER_SIZE;

/// Bytes that multishot recvmsg writes in front of everything (`struct io_uring_recvmsg_out`).
pub(crate) const HEADER_LEN: usize = SHORT_HEADER_LEN as usize;

const SHORT_HEADER_LEN: u32 = 16;

/// Bytes of a cache line. Buffers start at one.
const CACHE_LINE: usize = 64;

/// How much room a socket reserves in front of the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    name: u32,
    control: u32,
}

impl Layout {
    /// Room for an address of `name` bytes and control messages of `control` bytes.
    ///
    /// # Panics
    ///
    /// If it is more than a buffer ever holds.
    #[expect(clippy::cast_possible_truncation, reason = "checked, and a const fn has no try_from")]
    pub const fn new(name: usize, control: usize) -> Self {
        assert!(name <= MAX_BUFFER_SIZE && control <= MAX_BUFFER_SIZE);
        Self { name: name as u32, control: control as u32 }
    }

    /// The same, and as much more for control messages as lets the payload start at a cache line.
    pub const fn aligned(name: usize, control: usize) -> Self {
        let start = Self::new(name, control).payload_offset();
        let padding = start.next_multiple_of(CACHE_LINE) - start;
        Self::new(name, control + padding)
    }

    pub(crate) const fn name(self) -> usize {
        self.name as usize
    }

    pub(crate) const fn control(self) -> usize {
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

    /// The same, as contents keep it.
    const fn start(self) -> u32 {
        SHORT_HEADER_LEN + self.name + self.control
    }
}

/// What lies in front of a received message (`struct io_uring_recvmsg_out`), as the kernel wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) name: u32,
    pub(crate) control: u32,
    /// Payload bytes that the sender sent.
    pub(crate) original: u32,
    pub(crate) flags: u32,
}

impl Header {
    /// `None`: the bytes are too short to hold one.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let field = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_ne_bytes(bytes)
        };
        Some(Self { name: field(0), control: field(4), original: field(8), flags: field(12) })
    }

    /// Writes what `read` reads, as the kernel would: for direct reads.
    #[inline]
    pub(crate) fn write(self, bytes: &mut [u8]) {
        let fields = [self.name, self.control, self.original, self.flags];
        for (chunk, field) in bytes[..HEADER_LEN].chunks_exact_mut(4).zip(fields) {
            chunk.copy_from_slice(&field.to_ne_bytes());
        }
    }

    /// Whether control messages found no room.
    #[inline]
    pub(crate) fn lacks_control(&self) -> bool {
        self.flags & libc::MSG_CTRUNC as u32 != 0
    }
}

/// Stands for the length of the datagrams of a train where a message is a single one.
const SINGLE: u32 = u32::MAX;

/// The same, where that is in doubt.
const DOUBTFUL: u32 = u32::MAX - 1;

/// Which bytes of a piece of memory are which part of a message: of a datagram, or of what is left
/// of a train, which is several that the kernel received as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    layout: Layout,
    /// Where the payload starts.
    start: u32,
    /// Payload bytes that are there.
    captured: u32,
    /// Payload bytes that the sender sent.
    original: u32,
    /// Bytes of each datagram but the last. At least 1.
    segment_size: u32,
}

impl Contents {
    /// What a message of `len` bytes in `bytes` consists of. `None`: the bytes are too short to hold
    /// what the layout reserves, which the kernel never does.
    #[inline(always)]
    pub(crate) fn find(bytes: &[u8], len: usize, layout: Layout) -> Option<Self> {
        let start = layout.payload_offset();
        let available = len.min(bytes.len()).checked_sub(start)?;
        let header = Header::read(bytes)?;
        let available = u32::try_from(available).unwrap_or(u32::MAX);
        Some(Self {
            layout,
            start: layout.start(),
            captured: available.min(header.original),
            original: header.original,
            segment_size: SINGLE,
        })
    }

    /// Copies the message behind `chunk`, without the bytes that it reserved but did not need, and
    /// says where in the copy what lies.
    pub(crate) fn append(&self, bytes: &[u8], chunk: &mut Vec<u8>) -> Self {
        let (name, control) = (self.name(bytes), self.control(bytes));
        for part in [&bytes[..HEADER_LEN], name, control, self.payload(bytes)] {
            chunk.extend_from_slice(part);
        }
        let layout = Layout::new(name.len(), control.len());
        Self { layout, start: layout.start(), ..*self }
    }

    /// Bytes from the header to the end of the payload.
    pub(crate) fn len(&self) -> usize {
        self.start as usize + self.captured()
    }

    /// The sender's address as the kernel wrote it, at most as long as the layout reserves: the
    /// kernel reports the true length, and the bytes behind it are stale data of an earlier
    /// message.
    pub(crate) fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let len = Header::read(bytes).map_or(0, |header| header.name as usize);
        &bytes[HEADER_LEN..][..len.min(self.layout.name())]
    }

    /// The control messages, clamped as the address is.
    #[inline]
    pub(crate) fn control<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let len = Header::read(bytes).map_or(0, |header| header.control as usize);
        &bytes[self.layout.control_offset()..][..len.min(self.layout.control())]
    }

    /// The payload, as much of it as fitted.
    #[inline]
    pub(crate) fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start as usize..][..self.captured()]
    }

    /// Payload bytes that are there.
    #[inline]
    pub(crate) fn captured(&self) -> usize {
        self.captured as usize
    }

    /// Payload bytes that the sender sent.
    pub(crate) fn original(&self) -> usize {
        self.original as usize
    }

    #[inline]
    pub(crate) fn is_truncated(&self) -> bool {
        self.original > self.captured || self.segment_size == DOUBTFUL
    }

    /// It is a train, of datagrams of `bytes` bytes each, except that the last may be shorter.
    pub(crate) fn with_segment_size(self, bytes: NonZeroU32) -> Self {
        Self { segment_size: bytes.get(), ..self }
    }

    /// What it lacks may have told that it is a train: from now on it counts as truncated.
    pub(crate) fn doubtful(self) -> Self {
        Self { segment_size: DOUBTFUL, ..self }
    }

    /// Bytes of each datagram but the last.
    pub(crate) fn stride(&self) -> usize {
        self.segment_size.min(self.captured) as usize
    }

    /// How many datagrams there are: an empty one is one, too.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        if self.captured <= self.segment_size {
            return 1;
        }
        self.captured.div_ceil(self.segment_size) as usize
    }

    /// Cuts the first datagram off. `None`: there is only one.
    pub(crate) fn split_off_first(&mut self) -> Option<Self> {
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

#[cfg(test)]
pub(crate) mod tests {
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
