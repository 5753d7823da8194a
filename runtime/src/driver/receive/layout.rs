//! [`Layout`] and [`Header`]: where the parts of a received message are in its buffer.
//!
//! The layout is that of multishot recvmsg (Linux 6.0, `io_uring_prep_recvmsg_multishot(3)`): a
//! header of 16 bytes, the space reserved for the address, the space reserved for control messages,
//! the payload. Direct reads use it, too, so there is one parser.

use crate::limits::MAX_BUFFER_SIZE;

/// Length of the header that multishot recvmsg writes first (`struct io_uring_recvmsg_out`).
pub const HEADER_LEN: usize = 16;

/// Bytes of a cache line. Each buffer starts at one.
const CACHE_LINE: usize = 64;

/// How many bytes a socket reserves before the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    name: u32,
    control: u32,
}

impl Layout {
    /// Reserves `name` bytes for the address and `control` bytes for control messages.
    ///
    /// # Panics
    ///
    /// If this is more than a buffer can hold.
    #[expect(clippy::cast_possible_truncation, reason = "checked, and a const fn has no try_from")]
    #[must_use]
    pub const fn new(name: usize, control: usize) -> Self {
        assert!(name <= MAX_BUFFER_SIZE && control <= MAX_BUFFER_SIZE);
        Self { name: name as u32, control: control as u32 }
    }

    /// [`new`](Self::new), with more bytes for control messages, so that the payload starts at a
    /// cache line.
    #[must_use]
    pub const fn aligned(name: usize, control: usize) -> Self {
        let start = Self::new(name, control).payload_offset();
        let padding = start.next_multiple_of(CACHE_LINE) - start;
        Self::new(name, control + padding)
    }

    /// Bytes that are reserved for the address.
    #[must_use]
    pub const fn name(self) -> usize {
        self.name as usize
    }

    /// Bytes that are reserved for control messages.
    #[must_use]
    pub const fn control(self) -> usize {
        self.control as usize
    }

    /// Where the control messages start.
    #[must_use]
    pub const fn control_offset(self) -> usize {
        HEADER_LEN + self.name()
    }

    /// Where the payload starts. It depends on the reservation, not on the lengths that the kernel
    /// reports (docs/kernel.md, K-RECV-6).
    #[must_use]
    pub const fn payload_offset(self) -> usize {
        self.control_offset() + self.control()
    }
}

/// The header of a received message, as the kernel wrote it (`struct io_uring_recvmsg_out`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the sender's address in bytes.
    pub name: u32,
    /// Length of the control messages in bytes.
    pub control: u32,
    /// Length of the payload that was sent, in bytes.
    pub original: u32,
    /// `MSG_` flags.
    pub flags: u32,
}

impl Header {
    /// Reads a header. `None` if there are too few bytes.
    #[inline]
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let field = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_ne_bytes(bytes)
        };
        Some(Self { name: field(0), control: field(4), original: field(8), flags: field(12) })
    }

    /// Writes a header, as the kernel would. For direct reads.
    #[inline]
    pub fn write(self, bytes: &mut [u8]) {
        let fields = [self.name, self.control, self.original, self.flags];
        for (chunk, field) in bytes[..HEADER_LEN].chunks_exact_mut(4).zip(fields) {
            chunk.copy_from_slice(&field.to_ne_bytes());
        }
    }

    /// Whether control messages were cut off because too few bytes were reserved.
    #[inline]
    #[must_use]
    pub fn lacks_control(&self) -> bool {
        self.flags & libc::MSG_CTRUNC as u32 != 0
    }
}
