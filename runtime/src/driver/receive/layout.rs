//! [`Layout`] and [`Header`]: how a received message lies in its buffer.
//!
//! As multishot recvmsg writes it (Linux 6.0, `io_uring_prep_recvmsg_multishot(3)`): a header of 16
//! bytes, the space reserved for the address, the space reserved for control messages, the payload.
//! A direct read uses the same layout, so there is one parser.

use crate::limits::MAX_BUFFER_SIZE;

/// Bytes that multishot recvmsg writes in front of everything (`struct io_uring_recvmsg_out`).
pub const HEADER_LEN: usize = 16;

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
    #[must_use]
    pub const fn new(name: usize, control: usize) -> Self {
        assert!(name <= MAX_BUFFER_SIZE && control <= MAX_BUFFER_SIZE);
        Self { name: name as u32, control: control as u32 }
    }

    /// The same, and as much more for control messages as lets the payload start at a cache line.
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

    /// Where the payload starts: by the reservation, whatever lengths the kernel reports.
    #[must_use]
    pub const fn payload_offset(self) -> usize {
        self.control_offset() + self.control()
    }
}

/// What lies in front of a received message (`struct io_uring_recvmsg_out`), as the kernel wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the sender's address.
    pub name: u32,
    /// Bytes of the control messages.
    pub control: u32,
    /// Payload bytes that the sender sent.
    pub original: u32,
    /// `MSG_` flags.
    pub flags: u32,
}

impl Header {
    /// `None`: the bytes are too short to hold one.
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

    /// Writes what `read` reads, as the kernel would: for direct reads.
    #[inline]
    pub fn write(self, bytes: &mut [u8]) {
        let fields = [self.name, self.control, self.original, self.flags];
        for (chunk, field) in bytes[..HEADER_LEN].chunks_exact_mut(4).zip(fields) {
            chunk.copy_from_slice(&field.to_ne_bytes());
        }
    }

    /// Whether control messages found no room.
    #[inline]
    #[must_use]
    pub fn lacks_control(&self) -> bool {
        self.flags & libc::MSG_CTRUNC as u32 != 0
    }
}
