//! [`Buffers`]: the kernel's side of a ring of provided buffers. It takes buffers at the head, and
//! checks that none is provided twice.

// UNSAFETY: the ring and the buffers are memory that is shared with the pool.
#![expect(unsafe_code, reason = "argued above")]

use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::entry::Reserved;

/// The offset of the tail: the reserved field of the first entry.
const TAIL: usize = 14;
/// The length of what multishot recvmsg writes first (`struct io_uring_recvmsg_out`).
pub(crate) const HEADER_LEN: usize = 16;

/// A registered ring of buffers.
pub(crate) struct Buffers {
    /// The address of the ring. 0 while none is registered.
    address: usize,
    entries: u16,
    /// The next entry that the kernel takes.
    head: u16,
    /// The end of the entries that were observed.
    seen: u16,
    /// Who holds each buffer, by id.
    holders: Vec<Holder>,
    /// How many buffers the program's side holds.
    with_program: usize,
}

/// Who holds a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// It was never provided.
    Nobody,
    /// The kernel, and it is free.
    Kernel,
    /// A completion that was not taken yet.
    Completion,
    /// The program's side: the pool, an inbox or a task.
    Program,
}

/// A buffer that the kernel may fill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) id: u16,
    address: usize,
    len: usize,
}

/// What is written into a buffer.
pub(crate) struct Message<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) control: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { address: 0, entries: 0, head: 0, seen: 0, holders: Vec::new(), with_program: 0 }
    }

    pub(crate) fn register(&mut self, address: u64, entries: u16) {
        let mut holders = std::mem::take(&mut self.holders);
        holders.resize(usize::from(entries), Holder::Nobody);
        // Registered again. The program's side may still hold buffers.
        for holder in &mut holders {
            if *holder != Holder::Program {
                *holder = Holder::Nobody;
            }
        }
        let with_program = self.with_program;
        *self = Self { address: address as usize, entries, holders, with_program, ..Self::new() };
    }

    pub(crate) fn unregister(&mut self) {
        let holders = std::mem::take(&mut self.holders);
        *self = Self { holders, with_program: self.with_program, ..Self::new() };
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.address != 0
    }

    /// Observes the entries that were provided since the last call. The error says what is wrong.
    pub(crate) fn observe(&mut self) -> Result<(), String> {
        if !self.is_registered() {
            return Ok(());
        }
        let tail = self.tail();
        if tail.wrapping_sub(self.head) > self.entries {
            return Err(format!("the ring of buffers overflows: {} to {tail}", self.head));
        }
        while self.seen != tail {
            let buffer = self.entry(self.seen);
            self.seen = self.seen.wrapping_add(1);
            let Some(holder) = self.holders.get_mut(usize::from(buffer.id)) else {
                return Err(format!("the buffer {} was provided, which does not exist", buffer.id));
            };
            match holder {
                Holder::Kernel | Holder::Completion => {
                    return Err(format!("the buffer {} was provided twice", buffer.id));
                }
                Holder::Program => self.with_program -= 1,
                Holder::Nobody => {}
            }
            *holder = Holder::Kernel;
        }
        Ok(())
    }

    /// The next free buffer. It stays in the ring.
    pub(crate) fn next(&self) -> Option<Buffer> {
        (self.is_registered() && self.head != self.seen).then(|| self.entry(self.head))
    }

    /// Takes the next free buffer out of the ring and writes a message into it, as multishot
    /// recvmsg lays it out. Returns the result of the completion. A name that is too long is cut,
    /// but the header has its full length. Bytes that are not written keep their old values.
    pub(crate) fn fill(
        &mut self,
        buffer: Buffer,
        reserved: Reserved,
        message: &Message<'_>,
        tells_true_length: bool,
    ) -> i32 {
        self.head = self.head.wrapping_add(1);
        self.holders[usize::from(buffer.id)] = Holder::Completion;
        let offset = HEADER_LEN + reserved.name + reserved.control;
        let captured = message.payload.len().min(buffer.len - offset);
        let flags = if captured < message.payload.len() { libc::MSG_TRUNC } else { 0 };
        let told = if tells_true_length { message.payload.len() } else { captured };
        let control = if reserved.control < message.control.len() { &[] } else { message.control };
        let header = header(message.name.len(), control.len(), told, flags);
        write(buffer, 0, &header);
        write(buffer, HEADER_LEN + reserved.name, control);
        write(buffer, HEADER_LEN, &message.name[..message.name.len().min(reserved.name)]);
        write(buffer, offset, &message.payload[..captured]);
        (offset + captured) as i32
    }

    /// Whether the buffer has space for a message with this reservation.
    pub(crate) fn holds(buffer: Buffer, reserved: Reserved) -> bool {
        buffer.len >= HEADER_LEN + reserved.name + reserved.control
    }

    /// The completion for the buffer `id` was taken.
    pub(crate) fn hand_over(&mut self, id: u16) {
        self.holders[usize::from(id)] = Holder::Program;
        self.with_program += 1;
    }

    /// How many buffers the program's side holds.
    pub(crate) fn with_program(&self) -> usize {
        self.with_program
    }

    fn tail(&self) -> u16 {
        let tail: *mut u16 = ptr::with_exposed_provenance_mut(self.address + TAIL);
        // SAFETY: the ring is mapped while it is registered. Both sides use atomic accesses.
        unsafe { AtomicU16::from_ptr(tail) }.load(Ordering::Acquire)
    }

    fn entry(&self, at: u16) -> Buffer {
        let index = usize::from(at & (self.entries - 1));
        let at = self.address + index * size_of::<BufRingEntry>();
        let entry: *const BufRingEntry = ptr::with_exposed_provenance(at);
        // SAFETY: `index` is below `entries`, and the ring is mapped while it is registered. The
        // program's side does not touch entries below the tail. The model runs on the same thread,
        // so the tail does not change in that time.
        let entry = unsafe { &*entry };
        Buffer { id: entry.bid(), address: entry.addr() as usize, len: entry.len() as usize }
    }
}

/// The header that multishot recvmsg writes.
pub(crate) fn header(name: usize, control: usize, payload: usize, flags: i32) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..4].copy_from_slice(&(name as u32).to_ne_bytes());
    bytes[4..8].copy_from_slice(&(control as u32).to_ne_bytes());
    bytes[8..12].copy_from_slice(&(payload as u32).to_ne_bytes());
    bytes[12..].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

fn write(buffer: Buffer, at: usize, bytes: &[u8]) {
    assert!(at + bytes.len() <= buffer.len, "the kernel writes past the buffer");
    let start: *mut u8 = ptr::with_exposed_provenance_mut(buffer.address + at);
    // SAFETY: the buffer was provided, so it is mapped, and nobody else reads or writes it until
    // its completion was taken.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len()) };
}
