//! [`Sender`]: sends numbered datagrams, by plain sends, sendmmsg(2) or GSO.

// UNSAFETY: sendmmsg and sendmsg with control data take raw pointers.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

/// Most datagrams of one call.
pub(crate) const BATCH: usize = 64;

/// Most bytes of a GSO train: the largest UDP payload.
const MOST_TRAIN_BYTES: usize = 65_507;

/// A destination, in the form that the kernel takes. `None` for a connected socket.
pub(crate) type Destination = Option<libc::sockaddr_in>;

/// One socket that sends, with the memory for a batch.
pub(crate) struct Sender {
    socket: OwnedFd,
    size: usize,
    /// Payloads, back to back.
    payloads: Vec<u8>,
    destinations: Vec<Destination>,
    vectors: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

impl Sender {
    /// Datagrams of `size` bytes, through `socket`, which is blocking.
    pub(crate) fn new(socket: OwnedFd, size: usize) -> Self {
        assert!(size >= 8, "a datagram has its number in it");
        let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: all-zero bytes are a valid mmsghdr.
        let message = unsafe { mem::zeroed() };
        Self {
            socket,
            size,
            payloads: vec![0x5a; BATCH * size],
            destinations: Vec::with_capacity(BATCH),
            vectors: vec![vector; BATCH],
            messages: vec![message; BATCH],
        }
    }

    /// How many segments a train of this size may have.
    pub(crate) fn train_limit(&self) -> usize {
        BATCH.min(MOST_TRAIN_BYTES / self.size)
    }

    pub(crate) fn len(&self) -> usize {
        self.destinations.len()
    }

    /// Adds a datagram to the batch.
    pub(crate) fn push(&mut self, number: u64, destination: Destination) {
        let start = self.destinations.len() * self.size;
        self.payloads[start..start + 8].copy_from_slice(&number.to_le_bytes());
        self.destinations.push(destination);
    }

    /// Adds a whole payload to the batch of a connected socket.
    pub(crate) fn push_payload(&mut self, payload: &[u8]) {
        let start = self.destinations.len() * self.size;
        self.payloads[start..start + self.size].copy_from_slice(payload);
        self.destinations.push(None);
    }

    /// Sends the batch, one call per datagram.
    pub(crate) fn send_each(&mut self) -> io::Result<()> {
        for index in 0..self.destinations.len() {
            self.send_messages(index, 1)?;
        }
        self.destinations.clear();
        Ok(())
    }

    /// Sends the batch by sendmmsg(2).
    pub(crate) fn send_many(&mut self) -> io::Result<()> {
        self.send_messages(0, self.destinations.len())?;
        self.destinations.clear();
        Ok(())
    }

    fn send_messages(&mut self, mut first: usize, count: usize) -> io::Result<()> {
        let end = first + count;
        for index in first..end {
            self.vectors[index] = libc::iovec {
                iov_base: self.payloads[index * self.size..].as_mut_ptr().cast(),
                iov_len: self.size,
            };
            let header = &mut self.messages[index].msg_hdr;
            header.msg_iov = &raw mut self.vectors[index];
            header.msg_iovlen = 1;
            (header.msg_name, header.msg_namelen) = name_of(&mut self.destinations[index]);
        }
        while first < end {
            let rest = &mut self.messages[first..end];
            // SAFETY: every header names memory of `self` that is not moved until the call returns.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as u32,
                    libc::MSG_NOSIGNAL,
                )
            };
            match sent {
                -1 => return Err(io::Error::last_os_error()),
                sent => first += sent as usize,
            }
        }
        Ok(())
    }

    /// Sends the batch as one train, to the destination of its first datagram (`UDP_SEGMENT`).
    pub(crate) fn send_train(&mut self) -> io::Result<()> {
        let count = self.destinations.len();
        assert!(count <= self.train_limit(), "a train has a limit");
        #[repr(align(8))]
        struct Control([u8; 32]);
        let mut control = Control([0; 32]);
        let mut vector =
            libc::iovec { iov_base: self.payloads.as_mut_ptr().cast(), iov_len: count * self.size };
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        (header.msg_name, header.msg_namelen) = name_of(&mut self.destinations[0]);
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: computes a length.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) } as usize;
        // SAFETY: the control buffer has space for one header, and is aligned for it.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: within the control buffer; not null, because there is space.
        let first = unsafe { &mut *first };
        first.cmsg_level = libc::SOL_UDP;
        first.cmsg_type = libc::UDP_SEGMENT;
        // SAFETY: computes a length.
        first.cmsg_len = unsafe { libc::CMSG_LEN(size_of::<u16>() as u32) } as usize;
        // SAFETY: computes an address within the control buffer.
        let data = unsafe { libc::CMSG_DATA(first) };
        // SAFETY: there is space for the two bytes there.
        unsafe { ptr::write_unaligned(data.cast::<u16>(), self.size as u16) };
        // SAFETY: the header names memory that lives until the call returns.
        let sent = unsafe {
            libc::sendmsg(self.socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL)
        };
        self.destinations.clear();
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn name_of(destination: &mut Destination) -> (*mut libc::c_void, libc::socklen_t) {
    match destination {
        Some(address) => {
            ((&raw mut *address).cast(), size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        None => (ptr::null_mut(), 0),
    }
}
