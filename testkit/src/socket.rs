//! What std and socket2 do not offer for sockets: the length of the queue, options without a
//! setter, and control messages.

// UNSAFETY: setsockopt, sendmsg, recvmsg and bpf take raw pointers.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use socket2::{MaybeUninitSlice, MsgHdrMut, Socket};

use crate::checked;

/// How many datagrams are left in the kernel's queue. Removes them.
pub fn left_in_queue(socket: &Socket) -> usize {
    let mut memory = [MaybeUninit::uninit(); 64];
    let mut count = 0;
    loop {
        match socket.recv_with_flags(&mut memory, libc::MSG_DONTWAIT) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return count,
            Err(_pending_error_of_the_socket) => {}
        }
    }
}

/// How many datagrams the kernel has dropped on a socket, before and after its seal. Wraps.
///
/// # Errors
///
/// Those of getsockopt(2).
pub fn dropped(socket: &impl AsFd) -> io::Result<u32> {
    memory_info(socket).map(|values| values[DROPS])
}

/// What changes with each datagram that the kernel queues on a socket or drops: the memory of its
/// queue, and the drop counter.
///
/// # Errors
///
/// Those of getsockopt(2).
pub fn arrivals(socket: &impl AsFd) -> io::Result<[u32; 2]> {
    memory_info(socket).map(|values| [values[QUEUED], values[DROPS]])
}

/// Index of the memory of the receive queue in `SO_MEMINFO` (`SK_MEMINFO_RMEM_ALLOC`).
const QUEUED: usize = 0;

/// Index of the drop counter (`SK_MEMINFO_DROPS`).
const DROPS: usize = 8;

fn memory_info(socket: &impl AsFd) -> io::Result<[u32; DROPS + 1]> {
    let mut values = [0u32; DROPS + 1];
    let mut len = size_of_val(&values) as libc::socklen_t;
    let number = socket.as_fd().as_raw_fd();
    let (level, option) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
    let memory = (&raw mut values).cast();
    // SAFETY: the pointers name `values` and its length, and the kernel writes no more than that.
    let result = unsafe { libc::getsockopt(number, level, option, memory, &raw mut len) };
    if result == 0 { Ok(values) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option to `value`.
///
/// # Panics
///
/// If the kernel refuses the option.
pub fn set_option(socket: &impl AsFd, level: i32, option: i32, value: i32) {
    let len = size_of_val(&value) as libc::socklen_t;
    let number = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer names `value` and its length.
    let result = unsafe { libc::setsockopt(number, level, option, (&raw const value).cast(), len) };
    assert_eq!(result, 0, "option {option}: {}", io::Error::last_os_error());
}

/// Sets an option to 1.
pub fn switch_on(socket: &impl AsFd, level: i32, option: i32) {
    set_option(socket, level, option, 1);
}

/// Attaches a BPF program that removes the payload of each datagram.
///
/// # Errors
///
/// Fails without the right to do so, or if the kernel does not support it.
pub fn attach_program_that_empties(socket: &impl AsFd) -> io::Result<()> {
    const PROG_LOAD: libc::c_int = 5;
    const SOCKET_FILTER: u32 = 1;
    /// The part of `union bpf_attr` that loads a program.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
        version: u32,
        flags: u32,
        rest: [u64; 12],
    }
    // r0 = 8, the length of a UDP header; exit.
    let instructions: [u64; 2] = [8 << 32 | 0xb7, 0x95];
    let load = Load {
        kind: SOCKET_FILTER,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: `load` names its own size, the instructions and the licence, which outlive the call.
    let program =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of_val(&load)) };
    checked(program as i32)?;
    // SAFETY: it is a new descriptor, which nobody else has.
    let program = unsafe { OwnedFd::from_raw_fd(program as i32) };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, program.as_raw_fd());
    Ok(())
}

/// Sends `payload` with a control message of this level and type.
///
/// # Errors
///
/// Those of sendmsg(2).
pub fn send_with(
    sender: &Socket,
    payload: &[u8],
    (level, kind): (i32, i32),
    data: &[u8],
) -> io::Result<()> {
    let mut vector =
        libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: takes a number.
    let space = unsafe { libc::CMSG_SPACE(data.len() as u32) } as usize;
    // `u64` for the alignment of the control message.
    let mut control = vec![0u64; space.div_ceil(8)];
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = space;
    // SAFETY: the buffer holds one control message, as counted above.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: it lies in `control`, which is aligned for it, and nobody else refers to it.
    let header = unsafe { &mut *header };
    header.cmsg_level = level;
    header.cmsg_type = kind;
    // SAFETY: takes a number.
    header.cmsg_len = unsafe { libc::CMSG_LEN(data.len() as u32) } as usize;
    // SAFETY: its data follows it.
    let place = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: the buffer holds so many bytes, as counted above.
    unsafe { place.copy_from_nonoverlapping(data.as_ptr(), data.len()) };
    // SAFETY: all that the message points to lives until the call returns.
    let sent = unsafe { libc::sendmsg(sender.as_raw_fd(), &raw const message, 0) };
    if sent == payload.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends descriptors with `payload` (`SCM_RIGHTS`).
pub fn send_with_descriptors(sender: &Socket, payload: &[u8], descriptors: &[RawFd]) {
    let data: Vec<u8> = descriptors.iter().flat_map(|number| number.to_ne_bytes()).collect();
    send_with(sender, payload, (libc::SOL_SOCKET, libc::SCM_RIGHTS), &data).unwrap();
}

/// Receives a datagram whose only control message has one byte. Returns that byte.
///
/// # Errors
///
/// Those of recvmsg(2).
pub fn receive_control_byte(receiver: &Socket) -> io::Result<u8> {
    let (mut payload, mut control) = ([MaybeUninit::uninit(); 16], [MaybeUninit::uninit(); 64]);
    let len = {
        let mut slices = [MaybeUninitSlice::new(&mut payload)];
        let mut message = MsgHdrMut::new().with_buffers(&mut slices).with_control(&mut control);
        receiver.recvmsg(&mut message, 0)?;
        message.control_len()
    };
    assert!(len > 16, "a header of 16 bytes and one byte");
    // SAFETY: the kernel wrote `len` bytes.
    Ok(unsafe { control[16].assume_init() })
}
