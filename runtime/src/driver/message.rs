//! Received messages, and the one memory layout that all receives share.
//!
//! A received message lies in its buffer as multishot recvmsg writes it (Linux 6.0,
//! `io_uring_prep_recvmsg_multishot(3)`): a header of 16 bytes, the space reserved for the address,
//! the space reserved for control messages, the payload. A direct read uses the same layout, so
//! there is one parser ([`Header::parse`], pure) and one kind of received message.

// UNSAFETY: recvmsg takes a structure of raw pointers.
#![expect(unsafe_code, reason = "argued above")]

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::buffer::{Buffer, Spill};

/// Bytes that multishot recvmsg writes in front of everything (`struct io_uring_recvmsg_out`).
const HEADER_LEN: usize = 16;

/// How much room a socket reserves in front of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    name: usize,
    control: usize,
}

impl Layout {
    /// Room for an address of `name` bytes and control messages of `control` bytes.
    pub const fn new(name: usize, control: usize) -> Self {
        Self { name, control }
    }

    /// Where the payload starts: by the reservation, whatever lengths the kernel reports.
    pub const fn payload_offset(&self) -> usize {
        HEADER_LEN + self.name + self.control
    }

    /// The template that a multishot receive is armed with.
    pub(crate) fn template(&self) -> libc::msghdr {
        // SAFETY: an all-zero msghdr is valid: null pointers and zero lengths.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_namelen = self.name as libc::socklen_t;
        header.msg_controllen = self.control;
        header
    }
}

/// The lengths and flags of a received message, clamped to what is really in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    name: usize,
    control: usize,
    /// Payload bytes in the buffer.
    captured: usize,
    /// Payload bytes that the sender sent.
    original: usize,
    flags: u32,
}

impl Header {
    /// Reads the header of a message of `len` bytes in `bytes`. `None`: the bytes are too short to
    /// hold what the layout reserves, which the kernel never does.
    ///
    /// The reported address length may exceed the reservation, and the bytes between the address
    /// and the payload are stale data of an earlier message: both are clamped away here.
    fn parse(bytes: &[u8], len: usize, layout: Layout) -> Option<Self> {
        let field = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let available = len.min(bytes.len()).checked_sub(layout.payload_offset())?;
        let original = field(8)? as usize;
        Some(Self {
            name: (field(0)? as usize).min(layout.name),
            control: (field(4)? as usize).min(layout.control),
            captured: available.min(original),
            original,
            flags: field(12)?,
        })
    }

    /// Writes what `parse` reads, as the kernel would: for direct reads.
    fn write(&self, bytes: &mut [u8]) {
        let fields = [self.name, self.control, self.original, self.flags as usize];
        for (chunk, field) in bytes[..HEADER_LEN].chunks_exact_mut(4).zip(fields) {
            chunk.copy_from_slice(&(field as u32).to_ne_bytes());
        }
    }
}

/// A message that was received, in the memory that it was received into.
pub struct ReceivedMessage {
    memory: Memory,
    header: Header,
    layout: Layout,
}

enum Memory {
    /// A buffer of the pool, which returns to the kernel when this is dropped.
    Pooled(Buffer),
    /// Copied out of the pool; cut off after the payload.
    Spilled(Spill),
    /// Read directly, past the pool; cut off after the payload.
    Direct(Box<[u8]>),
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Pooled(buffer) => buffer,
            Self::Spilled(bytes) => bytes,
            Self::Direct(bytes) => bytes,
        }
    }
}

impl ReceivedMessage {
    /// The message that a completion of `len` bytes says lies in `buffer`.
    pub(crate) fn from_buffer(buffer: Buffer, len: usize, layout: Layout) -> Option<Self> {
        // The kernel fills a buffer to its end, which is rounded up: what counts is what was asked
        // for.
        let len = len.min(layout.payload_offset() + buffer.payload_capacity());
        let header = Header::parse(&buffer, len, layout)?;
        Some(Self { memory: Memory::Pooled(buffer), header, layout })
    }

    /// Takes one message from `socket` without waiting, through `scratch` into memory of its own
    /// length. For the drain, which must not depend on the pool.
    ///
    /// # Errors
    ///
    /// Those of recvmsg(2): `WouldBlock` proves that the queue is empty; a pending socket error is
    /// reported once and the datagrams come after it.
    pub fn receive_now(
        socket: BorrowedFd<'_>,
        layout: Layout,
        scratch: &mut Vec<u8>,
        payload: usize,
    ) -> io::Result<Self> {
        Self::receive_by(|memory| receive_into(memory, socket, layout), layout, scratch, payload)
    }

    /// [`receive_now`](Self::receive_now) through `read`, which lays the message out in the memory
    /// that it is given, and gives the length of the whole.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    pub fn receive_by(
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
        layout: Layout,
        scratch: &mut Vec<u8>,
        payload: usize,
    ) -> io::Result<Self> {
        scratch.resize(layout.payload_offset() + payload, 0);
        let len = read(scratch)?;
        let bytes: Box<[u8]> = scratch[..len].into();
        let header = Header::parse(&bytes, len, layout)
            .expect("the scratch memory holds all that the layout reserves");
        Ok(Self { memory: Memory::Direct(bytes), header, layout })
    }

    /// Moves the message out of the pool into memory of its own length, so that the buffer can
    /// serve others.
    pub fn leave_pool(&mut self) {
        if let Memory::Pooled(buffer) = &self.memory {
            let end = self.layout.payload_offset() + self.header.captured;
            self.memory = Memory::Spilled(buffer.spill(end));
        }
    }

    /// The program takes it: from now on it counts against the pool, also if it left it.
    pub fn claim(&mut self) {
        if let Memory::Spilled(bytes) = &mut self.memory {
            bytes.claim();
        }
    }

    /// Whether the message lies in a buffer of the pool.
    pub fn is_pooled(&self) -> bool {
        matches!(self.memory, Memory::Pooled(_))
    }

    /// The sender's address as the kernel wrote it, at most as long as the layout reserves.
    pub fn name(&self) -> &[u8] {
        &self.memory.bytes()[HEADER_LEN..][..self.header.name]
    }

    /// The control messages.
    pub fn control(&self) -> &[u8] {
        &self.memory.bytes()[HEADER_LEN + self.layout.name..][..self.header.control]
    }

    /// The payload, as much of it as fitted.
    pub fn payload(&self) -> &[u8] {
        &self.memory.bytes()[self.layout.payload_offset()..][..self.header.captured]
    }

    /// Bytes of payload that the sender sent.
    pub fn original_len(&self) -> usize {
        self.header.original
    }

    /// Whether the sender sent more than is in the buffer.
    pub fn is_truncated(&self) -> bool {
        self.header.original > self.header.captured
            || self.header.flags & libc::MSG_TRUNC as u32 != 0
    }
}

impl fmt::Debug for ReceivedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedMessage")
            .field("header", &self.header)
            .field("pooled", &self.is_pooled())
            .finish_non_exhaustive()
    }
}

/// Takes one message from `socket` without waiting, and lays it out in `memory` as a multishot
/// receive would. Gives the length of the whole, header included: what a completion says.
pub(crate) fn receive_into(
    memory: &mut [u8],
    socket: BorrowedFd<'_>,
    layout: Layout,
) -> io::Result<usize> {
    let (name, rest) = memory[HEADER_LEN..].split_at_mut(layout.name);
    let (control, payload) = rest.split_at_mut(layout.control);
    let mut vector = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    let mut request = layout.template();
    request.msg_name = name.as_mut_ptr().cast();
    request.msg_control = control.as_mut_ptr().cast();
    request.msg_iov = &raw mut vector;
    request.msg_iovlen = 1;
    // MSG_TRUNC: the result is the true length even where the memory is too small for it.
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: the pointers name parts of `memory` with their lengths, and `vector`; all live until
    // the call returns.
    let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut request, flags) };
    let Ok(original) = usize::try_from(result) else {
        return Err(io::Error::last_os_error());
    };
    let captured = original.min(payload.len());
    let header = Header {
        name: request.msg_namelen as usize,
        control: request.msg_controllen,
        captured,
        original,
        flags: request.msg_flags as u32,
    };
    header.write(memory);
    Ok(layout.payload_offset() + captured)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout::new(8, 4);

    fn message(name: u32, control: u32, original: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [name, control, original, 0] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend([b'n'; 8]);
        bytes.extend([b'c'; 4]);
        bytes.extend(payload);
        bytes
    }

    /// Fails when the address is not clamped to the reservation.
    #[test]
    fn an_address_longer_than_its_reservation_is_clamped() {
        let bytes = message(200, 300, 3, b"abc");
        let header = Header::parse(&bytes, bytes.len(), LAYOUT).unwrap();
        assert_eq!((header.name, header.control), (8, 4));
        assert_eq!((header.captured, header.original), (3, 3));
    }

    #[test]
    fn a_truncated_message_keeps_its_true_length() {
        let bytes = message(8, 0, 1000, b"abc");
        let header = Header::parse(&bytes, bytes.len(), LAYOUT).unwrap();
        assert_eq!((header.captured, header.original), (3, 1000));
    }

    #[test]
    fn an_empty_message_has_no_payload() {
        let bytes = message(8, 0, 0, b"");
        let header = Header::parse(&bytes, bytes.len(), LAYOUT).unwrap();
        assert_eq!((header.captured, header.original), (0, 0));
    }

    #[test]
    fn bytes_beyond_the_completion_are_not_payload() {
        let bytes = message(8, 0, 3, b"abcdefgh");
        let header = Header::parse(&bytes, LAYOUT.payload_offset() + 3, LAYOUT).unwrap();
        assert_eq!(header.captured, 3);
    }

    /// Fails when the payload is not clamped to what was sent, or to what is in the buffer.
    #[test]
    fn a_payload_ends_where_the_datagram_or_the_buffer_does() {
        let bytes = message(8, 0, 3, b"abcdefgh");
        let header = Header::parse(&bytes, bytes.len(), LAYOUT).unwrap();
        assert_eq!(header.captured, 3);
        let bytes = message(8, 0, 1000, b"abc");
        let header = Header::parse(&bytes, bytes.len() + 1, LAYOUT).unwrap();
        assert_eq!(header.captured, 3);
    }

    #[test]
    fn a_message_shorter_than_its_layout_is_refused() {
        let bytes = message(8, 0, 3, b"");
        for len in 0..LAYOUT.payload_offset() {
            assert_eq!(Header::parse(&bytes[..len], len, LAYOUT), None, "{len} bytes");
        }
    }
}
