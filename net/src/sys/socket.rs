//! [`Socket`]: a datagram socket and its system calls.

// UNSAFETY: SO_MEMINFO, SO_GET_FILTER, sendmmsg and dup3 of these types have no safe form, and
// socket2 returns raw addresses as pointers.
#![expect(unsafe_code, reason = "argued above")]

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::ops::DerefMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ebbtide_runtime::driver::{Layout, READ_BATCH, Source};
use socket2::{SockAddr, SockFilter};

use super::message::{MESSAGES_PER_CALL, Message};
#[cfg(ebbtide_model)]
use super::model::ModelSocket;

/// The kind of a datagram socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Internet,
    Unix,
}

/// A non-blocking datagram socket of the kernel. With `--cfg ebbtide_model`, it may be one of a
/// kernel in memory, for tests of the endpoint and of everything above it.
pub(crate) enum Socket {
    Kernel(socket2::Socket),
    #[cfg(ebbtide_model)]
    Model(Box<dyn ModelSocket>),
}

/// The classic filter that the program had attached to a socket before a seal replaced it. Empty if
/// there was none.
#[derive(Debug, Default)]
pub(crate) struct OwnFilter(Vec<libc::sock_filter>);

/// The filter of the seal, a single instruction.
#[expect(clippy::cast_possible_truncation, reason = "instructions have two bytes")]
const ACCEPT_NOTHING: libc::sock_filter =
    libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };

/// The index of the drop counter in the values of SO_MEMINFO (`SK_MEMINFO_DROPS`).
const DROPS: usize = 8;

impl Socket {
    /// Takes over a socket of the kernel and makes it non-blocking.
    pub(crate) fn new(socket: socket2::Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::Kernel(socket))
    }

    /// The kernel's socket, for its options and addresses.
    #[cfg_attr(
        not(any(test, ebbtide_model)),
        expect(clippy::unnecessary_wraps, reason = "a kernel in memory has none")
    )]
    pub(crate) fn kernel(&self) -> io::Result<&socket2::Socket> {
        match self {
            Self::Kernel(socket) => Ok(socket),
            #[cfg(ebbtide_model)]
            Self::Model(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// How many datagrams the kernel has dropped on this socket. The counter wraps.
    pub(crate) fn drop_count(&self) -> io::Result<u32> {
        match self {
            Self::Kernel(socket) => drop_count(socket),
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.drop_count(),
        }
    }

    /// Seals a UDP socket with a filter that accepts nothing (docs/kernel.md, K-SEAL-1). Returns
    /// the filter of the program that it replaces, for [`unseal`](Self::unseal).
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the filter is locked (`SO_LOCK_FILTER`), or is a BPF program
    /// (`SO_ATTACH_BPF`), which the kernel does not return and nobody could restore.
    pub(crate) fn seal_by_filter(&self) -> io::Result<OwnFilter> {
        match self {
            Self::Kernel(socket) => {
                let own = filter(socket)?;
                attach(socket, &[ACCEPT_NOTHING])?;
                Ok(OwnFilter(own))
            }
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.seal_by_filter().map(|()| OwnFilter::default()),
        }
    }

    /// Removes the seal of a UDP socket and restores the program's own filter. A filter that the
    /// program attached after the seal stays.
    pub(crate) fn unseal(&self, own: &OwnFilter) -> io::Result<()> {
        let socket = self.kernel()?;
        let is_seal = match filter(socket) {
            Ok(attached) => attached.len() == 1 && is_same(attached[0], ACCEPT_NOTHING),
            // It is a BPF program, which a seal never replaces.
            Err(_) => false,
        };
        match own.0.as_slice() {
            _ if !is_seal => Ok(()),
            [] => socket.detach_filter(),
            own => attach(socket, own),
        }
    }

    /// Seals a Unix socket. The seal is exact, and senders get `EPIPE` (docs/kernel.md, K-UNIX-2).
    pub(crate) fn seal_by_shutdown(&self) -> io::Result<()> {
        match self {
            Self::Kernel(socket) => socket.shutdown(std::net::Shutdown::Read),
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.seal_by_shutdown(),
        }
    }

    /// Whether a datagram is queued. It stays queued.
    pub(crate) fn peek(&self) -> io::Result<usize> {
        match self {
            Self::Kernel(socket) => {
                let mut memory = [MaybeUninit::uninit()];
                let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
                socket.recv_with_flags(&mut memory, flags)
            }
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.peek(),
        }
    }

    /// Sends without waiting and without SIGPIPE.
    pub(crate) fn send(&self, payload: &[u8], to: Option<&SockAddr>) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        match (self, to) {
            (Self::Kernel(socket), Some(to)) => socket.send_to_with_flags(payload, to, flags),
            (Self::Kernel(socket), None) => socket.send_with_flags(payload, flags),
            #[cfg(ebbtide_model)]
            (Self::Model(model), to) => model.send(payload, to),
        }
    }

    /// Sends messages in order without waiting and without SIGPIPE (sendmmsg(2)). Returns how many
    /// were sent, at least one, or the error of the first.
    pub(crate) fn send_many<'a>(
        &self,
        messages: impl ExactSizeIterator<Item = &'a Message>,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        match self {
            Self::Kernel(socket) => send_many(socket, messages, slices),
            #[cfg(ebbtide_model)]
            Self::Model(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Replaces the socket by `placeholder`. Its address is free at once. The number of the
    /// descriptor stays in use, so that code that has borrowed it does not touch an unrelated file.
    pub(crate) fn replace_descriptor(&self, placeholder: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::Kernel(socket) => replace_descriptor(socket, placeholder),
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.replace_descriptor(),
        }
    }
}

impl Source for Socket {
    fn receive_into<M: DerefMut<Target = [u8]>>(
        &self,
        memories: &mut [M],
        layout: Layout,
        lens: &mut [usize; READ_BATCH],
    ) -> io::Result<usize> {
        match self {
            Self::Kernel(socket) => socket.as_fd().receive_into(memories, layout, lens),
            #[cfg(ebbtide_model)]
            Self::Model(model) => {
                lens[0] = model.receive(&mut memories[0], layout)?;
                Ok(1)
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Kernel(socket) => socket.as_fd(),
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.as_fd(),
        }
    }
}

/// Returns the classic filter of a socket (`SO_GET_FILTER`, Linux 3.8). Empty if it has none.
///
/// # Errors
///
/// `PermissionDenied` if it is a BPF program.
fn filter(socket: &socket2::Socket) -> io::Result<Vec<libc::sock_filter>> {
    let mut instructions: Vec<libc::sock_filter> = Vec::new();
    loop {
        // Unlike all other options, this one counts instructions, not bytes.
        let mut count = socklen(instructions.len());
        // SAFETY: the pointers name `instructions` and their number, and the kernel writes no more
        // than that.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_GET_FILTER,
                instructions.as_mut_ptr().cast(),
                &raw mut count,
            )
        };
        match (result, io::Error::last_os_error()) {
            (0, _) if count as usize <= instructions.len() => return Ok(instructions),
            (0, _) => instructions.resize(count as usize, ACCEPT_NOTHING),
            // A sandbox that does not support filters has none that could be lost.
            (_, error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => return Ok(Vec::new()),
            (_, error) => return Err(error),
        }
    }
}

fn attach(socket: &socket2::Socket, filter: &[libc::sock_filter]) -> io::Result<()> {
    let instruction = |one: &libc::sock_filter| SockFilter::new(one.code, one.jt, one.jf, one.k);
    let filter: Vec<_> = filter.iter().map(instruction).collect();
    socket.attach_filter(&filter)
}

fn is_same(one: libc::sock_filter, other: libc::sock_filter) -> bool {
    (one.code, one.jt, one.jf, one.k) == (other.code, other.jt, other.jf, other.k)
}

/// `SO_MEMINFO`, Linux 4.12.
fn drop_count(socket: &socket2::Socket) -> io::Result<u32> {
    let mut values = [0u32; DROPS + 1];
    let mut len = socklen(size_of_val(&values));
    // SAFETY: the pointers name `values` and its length, and the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(values[DROPS]),
        _ => Err(io::Error::last_os_error()),
    }
}

fn send_many<'a>(
    socket: &socket2::Socket,
    messages: impl ExactSizeIterator<Item = &'a Message>,
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    // Only the headers that are used are initialized: most batches are short.
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES_PER_CALL];
    let count = messages.len().min(MESSAGES_PER_CALL);
    for (header, message) in headers.iter_mut().zip(messages) {
        let (name, control) = (message.name.bytes(), message.control.bytes());
        let contents = &slices[message.slices.clone()];
        // SAFETY: an all-zero mmsghdr is valid: null pointers and zero lengths.
        let header = header.write(unsafe { mem::zeroed() });
        let header = &mut header.msg_hdr;
        if !name.is_empty() {
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = socklen(name.len());
        }
        // An IoSlice has the layout of an iovec, by its documentation.
        header.msg_iov = contents.as_ptr().cast_mut().cast();
        header.msg_iovlen = contents.len();
        if !control.is_empty() {
            header.msg_control = control.as_ptr().cast_mut().cast();
            header.msg_controllen = control.len();
        }
    }
    let count = u32::try_from(count).expect("a batch is short");
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let headers = headers.as_mut_ptr().cast();
    // SAFETY: the first `count` headers were written. The memory that they point to is only read,
    // and outlives the call: the messages live for `'a`, and `slices` is borrowed.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, count, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn replace_descriptor(socket: &socket2::Socket, placeholder: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open and owned by their holders; the number stays open.
    let result =
        unsafe { libc::dup3(placeholder.as_raw_fd(), socket.as_raw_fd(), libc::O_CLOEXEC) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A length in the type of socket calls.
fn socklen(len: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(len).expect("addresses and options are short")
}

/// Removes the peer of a UDP socket, by a connect(2) to no family.
pub(crate) fn disconnect(socket: &socket2::Socket) -> io::Result<()> {
    Ok(rustix::net::connect_unspec(socket)?)
}

/// The raw bytes of an address, as sendmsg(2) takes them.
pub(crate) fn raw_name(address: &SockAddr) -> &[u8] {
    let start: *const u8 = address.as_ptr().cast();
    // SAFETY: socket2 guarantees `len` initialized bytes at `as_ptr`, which live as long as the
    // address.
    unsafe { std::slice::from_raw_parts(start, address.len() as usize) }
}
