//! [`Entry`]: a submission queue entry as the kernel reads it, the 64 bytes of `struct
//! io_uring_sqe`.

// UNSAFETY: the io-uring crate offers no way to read the entries that it builds.
#![expect(unsafe_code, reason = "argued above")]

use std::ptr;

use io_uring::squeue;

/// The request in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) user_data: u64,
    pub(crate) request: Request,
}

/// The requests that the model supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Multishot recvmsg into a provided buffer.
    Receive {
        descriptor: i32,
        /// The address of the request's msghdr, which is read at submission.
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

/// The fields of an entry, as the kernel reads them. All of them are read at once, because single
/// bytes take an interpreter long.
#[repr(C)]
#[derive(Clone, Copy)]
struct Fields {
    opcode: u8,
    flags: u8,
    priority: u16,
    descriptor: i32,
    offset: u64,
    /// The address of a msghdr or, for a cancel, the user data of the target.
    address: u64,
    len: u32,
    /// The flags of the operation: those of a message, or the events of a poll.
    operation: u32,
    user_data: u64,
    rest: [u64; 3],
}

const OPCODE_POLL_ADD: u8 = 6;
const OPCODE_RECVMSG: u8 = 10;
const OPCODE_ASYNC_CANCEL: u8 = 14;
/// `IORING_RECV_MULTISHOT`, in the field for the I/O priority.
const RECV_MULTISHOT: u16 = 1 << 1;
/// `IOSQE_BUFFER_SELECT`.
const BUFFER_SELECT: u8 = 1 << 5;
/// `IORING_POLL_ADD_MULTI`, in the field for the length.
const POLL_ADD_MULTI: u32 = 1 << 0;

impl Entry {
    /// Reads an entry. The error says what the model does not support.
    pub(crate) fn read(entry: &squeue::Entry) -> Result<Self, String> {
        const { assert!(size_of::<squeue::Entry>() == 64 && size_of::<Fields>() == 64) }
        // SAFETY: `Entry` is `repr(C)` around the kernel's structure of 64 bytes. The crate has
        // initialized all of them, because it zeroes them first. Every field of `Fields` is valid
        // for any bytes, and `read_unaligned` needs no alignment.
        let fields = unsafe { ptr::from_ref(entry).cast::<Fields>().read_unaligned() };
        let Fields { user_data, descriptor, .. } = fields;
        let request = match fields.opcode {
            OPCODE_RECVMSG => {
                let is_multishot = fields.priority & RECV_MULTISHOT != 0;
                if !is_multishot || fields.flags & BUFFER_SELECT == 0 {
                    return Err("a recvmsg that is not a multishot into provided buffers".into());
                }
                let flags = fields.operation.cast_signed();
                Request::Receive { descriptor, template: fields.address, flags }
            }
            OPCODE_POLL_ADD => Request::Poll {
                descriptor,
                events: fields.operation,
                multi: fields.len & POLL_ADD_MULTI != 0,
            },
            OPCODE_ASYNC_CANCEL => Request::Cancel { target: fields.address },
            opcode => return Err(format!("an entry with the opcode {opcode}")),
        };
        Ok(Self { user_data, request })
    }
}

/// The space that a request reserves for the address and for control messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub(crate) name: usize,
    pub(crate) control: usize,
}

/// Reads the msghdr of a request, as the kernel does at submission. Miri reports one that was
/// freed.
pub(crate) fn read_template(address: u64) -> Reserved {
    let template: *const libc::msghdr = ptr::with_exposed_provenance(address as usize);
    // SAFETY: owned until final. The driver keeps the msghdr in place until the final completion of
    // the receive that names it.
    let template = unsafe { template.read() };
    Reserved { name: template.msg_namelen as usize, control: template.msg_controllen }
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
