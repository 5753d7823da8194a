//! [`Entry`]: a submission queue entry as the kernel reads it, 64 bytes of `struct io_uring_sqe`.

// UNSAFETY: the io-uring crate lets nobody read the entries that it builds; the kernel does.
#![expect(unsafe_code, reason = "argued above")]

use std::ptr;

use io_uring::squeue;

/// What an entry asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) user_data: u64,
    pub(crate) request: Request,
}

/// The requests that the model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Multishot recvmsg into a provided buffer.
    Receive {
        descriptor: i32,
        /// Where the template lies; read at submission.
        template: u64,
        flags: i32,
    },
    Poll {
        descriptor: i32,
        events: u32,
        multi: bool,
    },
    Cancel {
        target: u64,
    },
}

const OPCODE_POLL_ADD: u8 = 6;
const OPCODE_RECVMSG: u8 = 10;
const OPCODE_ASYNC_CANCEL: u8 = 14;
/// `IORING_RECV_MULTISHOT`, in the field of the I/O priority.
const RECV_MULTISHOT: u16 = 1 << 1;
/// `IOSQE_BUFFER_SELECT`.
const BUFFER_SELECT: u8 = 1 << 5;
/// `IORING_POLL_ADD_MULTI`, in the field of the length.
const POLL_ADD_MULTI: u32 = 1 << 0;

impl Entry {
    /// Reads an entry. The error says what of it the model does not know.
    pub(crate) fn read(entry: &squeue::Entry) -> Result<Self, String> {
        const { assert!(size_of::<squeue::Entry>() == 64) }
        // SAFETY: `Entry` is `repr(C)` around the kernel's structure of 64 bytes, all of which the
        // crate has initialized, by zeroing them first.
        let bytes: [u8; 64] = unsafe { ptr::from_ref(entry).cast::<[u8; 64]>().read() };
        let user_data = u64_at(&bytes, 32);
        let descriptor = u32_at(&bytes, 4).cast_signed();
        let request = match bytes[0] {
            OPCODE_RECVMSG => {
                let is_multishot = u16_at(&bytes, 2) & RECV_MULTISHOT != 0;
                if !is_multishot || bytes[1] & BUFFER_SELECT == 0 {
                    return Err("a recvmsg that is no multishot into provided buffers".into());
                }
                let flags = u32_at(&bytes, 28).cast_signed();
                Request::Receive { descriptor, template: u64_at(&bytes, 16), flags }
            }
            OPCODE_POLL_ADD => Request::Poll {
                descriptor,
                events: u32_at(&bytes, 28),
                multi: u32_at(&bytes, 24) & POLL_ADD_MULTI != 0,
            },
            OPCODE_ASYNC_CANCEL => Request::Cancel { target: u64_at(&bytes, 16) },
            opcode => return Err(format!("an entry with the opcode {opcode}")),
        };
        Ok(Self { user_data, request })
    }
}

/// Room that a template reserves for the address and for control messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub(crate) name: usize,
    pub(crate) control: usize,
}

/// Reads a template, as the kernel does at submission. Under Miri, one that is gone is an error.
pub(crate) fn read_template(address: u64) -> Reserved {
    let template: *const libc::msghdr = ptr::with_exposed_provenance(address as usize);
    // SAFETY: owned until final: the driver keeps the template where it is until the final
    // completion of the receive that names it.
    let template = unsafe { template.read() };
    Reserved { name: template.msg_namelen as usize, control: template.msg_controllen }
}

fn u16_at(bytes: &[u8; 64], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; 64], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn u64_at(bytes: &[u8; 64], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|index| bytes[at + index]))
}

#[cfg(test)]
mod tests {
    use io_uring::{opcode, types};

    use super::*;

    #[test]
    fn the_entries_that_the_ring_builds_are_read_as_they_were_meant() {
        let template = Box::new(libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 28,
            msg_iov: ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: ptr::null_mut(),
            msg_controllen: 40,
            msg_flags: 0,
        });
        let receive = opcode::RecvMsgMulti::new(types::Fd(7), &raw const *template, 0)
            .flags(libc::MSG_TRUNC as u32)
            .build()
            .user_data(99);
        let entry = Entry::read(&receive).unwrap();
        assert_eq!(entry.user_data, 99);
        let Request::Receive { descriptor: 7, template: address, flags: libc::MSG_TRUNC } =
            entry.request
        else {
            panic!("{entry:?}");
        };
        assert_eq!(read_template(address), Reserved { name: 28, control: 40 });

        let poll = opcode::PollAdd::new(types::Fd(3), libc::POLLIN as u32).multi(true).build();
        let events = libc::POLLIN as u32;
        let request = Request::Poll { descriptor: 3, events, multi: true };
        assert_eq!(Entry::read(&poll).unwrap().request, request);

        let cancel = opcode::AsyncCancel::new(1234).build();
        assert_eq!(Entry::read(&cancel).unwrap().request, Request::Cancel { target: 1234 });
        assert!(Entry::read(&opcode::Nop::new().build()).is_err());
    }
}
