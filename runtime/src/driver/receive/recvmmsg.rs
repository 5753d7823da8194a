//! Direct reads with recvmmsg(2), in the layout of a multishot receive. For epoll, and for the
//! drain, which uses the pool but must not depend on it.

// UNSAFETY: recvmmsg takes structures of raw pointers.
#![expect(unsafe_code, reason = "argued above")]

use std::fmt;
use std::io;
use std::iter;
use std::mem::{self, MaybeUninit};
use std::ops::DerefMut;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::batch::Filled;
use super::layout::{HEADER_LEN, Header, Layout};
use crate::buffer::{Buffer, Pages, Pool};

/// Maximum number of messages that one call reads.
pub const READ_BATCH: usize = 64;

/// The msghdr for a receive of messages of `layout`, without the memory to receive into.
pub(super) fn request(layout: Layout) -> libc::msghdr {
    // SAFETY: an all-zero msghdr is valid: null pointers and zero lengths.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_namelen = libc::socklen_t::try_from(layout.name()).expect("a name is short");
    header.msg_controllen = layout.control();
    header
}

/// What messages are read from directly.
pub trait Source {
    /// Reads messages without waiting, one into each of `memories`, at most [`READ_BATCH`]. Returns
    /// how many there were, at least one. Puts the length of each, including the header, into
    /// `lens`, as a completion has it. There may be more messages, even if fewer were read than
    /// `memories` can take.
    ///
    /// # Errors
    ///
    /// Those of recvmsg(2) for the first message. `WouldBlock` proves that the queue is empty.
    fn receive_into<M: DerefMut<Target = [u8]>>(
        &self,
        memories: &mut [M],
        layout: Layout,
        lens: &mut [usize; READ_BATCH],
    ) -> io::Result<usize>;
}

impl Source for BorrowedFd<'_> {
    /// If fewer were read than `memories` can take, the queue was empty, or an error comes next.
    fn receive_into<M: DerefMut<Target = [u8]>>(
        &self,
        memories: &mut [M],
        layout: Layout,
        lens: &mut [usize; READ_BATCH],
    ) -> io::Result<usize> {
        // Only what is used is written: most reads are short.
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; READ_BATCH];
        let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; READ_BATCH];
        let count = memories.len().min(READ_BATCH);
        for ((header, vector), memory) in headers.iter_mut().zip(&mut vectors).zip(&mut *memories) {
            let (name, rest) = memory[HEADER_LEN..].split_at_mut(layout.name());
            let (control, payload) = rest.split_at_mut(layout.control());
            let iov_base = payload.as_mut_ptr().cast();
            let vector = vector.write(libc::iovec { iov_base, iov_len: payload.len() });
            let mut request = request(layout);
            request.msg_name = name.as_mut_ptr().cast();
            request.msg_control = control.as_mut_ptr().cast();
            request.msg_iov = vector;
            request.msg_iovlen = 1;
            header.write(libc::mmsghdr { msg_hdr: request, msg_len: 0 });
        }
        // MSG_TRUNC: the result is the true length, even if the memory is too small
        // (docs/kernel.md, K-RECV-5).
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: the first `count` headers were written. Their pointers name parts of `memories`,
        // with their lengths, and `vectors`, all of which live until the call returns.
        let received = unsafe {
            libc::recvmmsg(
                self.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                u32::try_from(count).expect("a batch is short"),
                flags,
                ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            return Err(io::Error::last_os_error());
        };
        for (index, memory) in memories.iter_mut().enumerate().take(received) {
            // SAFETY: it was written above: `received` is at most `count`.
            let result = unsafe { headers[index].assume_init_ref() };
            // SAFETY: it was written above: `received` is at most `count`.
            let vector = unsafe { vectors[index].assume_init_ref() };
            let original = result.msg_len as usize;
            let header = Header {
                name: result.msg_hdr.msg_namelen,
                control: u32::try_from(result.msg_hdr.msg_controllen).unwrap_or(u32::MAX),
                original: result.msg_len,
                flags: result.msg_hdr.msg_flags.cast_unsigned(),
            };
            header.write(memory);
            lens[index] = layout.payload_offset() + original.min(vector.iov_len);
        }
        Ok(received)
    }
}

/// The length of a message, which fits a buffer.
fn short(len: usize) -> u32 {
    u32::try_from(len).expect("the builder bounds buffers")
}

/// The memory that drains read into, for all sockets of a runtime.
#[derive(Default)]
pub struct Scratch {
    /// `None` until it is needed. It is mapped, so that only what messages fill is resident, and
    /// the allocator is not left with a hole of megabytes.
    memory: Option<Pages>,
    /// Empty between reads; kept for its allocation.
    buffers: Vec<Buffer>,
}

impl Scratch {
    /// Reads up to `limit` messages from `source` without waiting, into free buffers of the pool,
    /// and passes them to `each`. Returns how many there were, at least one. Returns `None` if all
    /// free buffers are with the kernel.
    ///
    /// # Errors
    ///
    /// Those of recvmsg(2). `WouldBlock` proves that the queue is empty. A pending socket error is
    /// returned once, and the datagrams come after it.
    pub fn receive_pooled(
        &mut self,
        source: &impl Source,
        layout: Layout,
        pool: &Pool,
        limit: usize,
        each: impl FnMut(Filled),
    ) -> io::Result<Option<usize>> {
        let free = iter::from_fn(|| pool.take_free());
        self.buffers.extend(free.take(limit.min(READ_BATCH)));
        if self.buffers.is_empty() {
            return Ok(None);
        }
        let mut lens = [0; READ_BATCH];
        let received = source.receive_into(&mut self.buffers, layout, &mut lens);
        if let Ok(count) = received {
            let filled = self.buffers.drain(..count).zip(lens);
            filled
                .map(|(buffer, len)| Filled { buffer: buffer.freeze(), len: short(len) })
                .for_each(each);
        }
        self.buffers.clear();
        received.map(Some)
    }

    /// Reads up to `limit` messages from `source` without waiting and without the pool. Passes the
    /// memory and the length of each message to `each`. Returns how many there were, at least one.
    ///
    /// # Errors
    ///
    /// Those of [`receive_pooled`](Self::receive_pooled), and those of mmap(2).
    pub fn receive(
        &mut self,
        source: &impl Source,
        layout: Layout,
        pool: &Pool,
        limit: usize,
        mut each: impl FnMut(&[u8], usize),
    ) -> io::Result<usize> {
        let len = layout.payload_offset() + pool.payload_capacity();
        // An odd number of cache lines, so that short messages do not share cache sets.
        let stride = (len.div_ceil(64) | 1) * 64;
        let memory = self.at_least(stride * READ_BATCH)?.chunks_exact_mut(stride);
        let mut memories: Vec<&mut [u8]> =
            memory.take(limit.min(READ_BATCH)).map(|memory| &mut memory[..len]).collect();
        let mut lens = [0; READ_BATCH];
        let received = source.receive_into(&mut memories, layout, &mut lens)?;
        let messages = memories.iter().map(|memory| &**memory).zip(lens);
        messages.take(received).for_each(|(memory, len)| each(memory, len));
        Ok(received)
    }

    /// Returns at least `len` bytes.
    fn at_least(&mut self, len: usize) -> io::Result<&mut [u8]> {
        if self.memory.as_ref().is_none_or(|memory| memory.len() < len) {
            self.memory = Some(Pages::new(len)?);
        }
        Ok(self.memory.as_mut().expect("it was just made"))
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}
