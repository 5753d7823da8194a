//! [`SendReady`]: the wait for buffer space, for a datagram that could not be sent at once.
//!
//! Afterwards the send is tried again with a plain system call. It is not left to io_uring, whose
//! retry of a Unix send sends an *empty* datagram (docs/kernel.md, K-SEND-1): a Unix socket copies
//! the payload before it finds the queue full, and the retry continues where the copy has ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use ebbtide_runtime::driver::{Activity, Interest, Operation, Request, poll_now, watch_writable};
use socket2::{SockAddr, Socket, Type};

use crate::datagram::registered::RegisteredSocket;
use crate::sys::socket::Family;

/// What to wait for. Keeps the descriptor open.
#[derive(Debug)]
pub(crate) enum SendReady {
    /// Space in the send buffer of a UDP socket.
    Internet(Rc<RegisteredSocket>),
    /// Space in the send buffer of a Unix socket, and in the queue of the connected peer. It is a
    /// watch for writability alone, because a sealed socket always seems ready (docs/kernel.md,
    /// K-POLL-1).
    Unix(OwnedFd),
    /// Space in the queue of a Unix socket to which this one is not connected. The kernel reports
    /// it only on a socket that is connected to that peer (docs/kernel.md, K-UNIX-5). So a separate
    /// socket is connected to it.
    Peer(Socket),
}

impl SendReady {
    /// The wait of a send from `socket` to `to`, or to the connected peer.
    ///
    /// # Errors
    ///
    /// * Those of connect(2) to a Unix peer. Sending to the peer would fail with the same error.
    /// * No descriptor is left.
    pub(crate) fn new(socket: &Rc<RegisteredSocket>, to: Option<&SockAddr>) -> io::Result<Self> {
        if socket.family() == Family::Internet || socket.is_model() {
            return Ok(Self::Internet(Rc::clone(socket)));
        }
        match to.map(full_peer).transpose()?.flatten() {
            Some(probe) => Ok(Self::Peer(probe)),
            None => watch_writable(socket.as_fd()).map(Self::Unix),
        }
    }

    /// The descriptor and the readiness to wait for.
    fn readiness(&self) -> (BorrowedFd<'_>, Interest) {
        match self {
            Self::Internet(socket) => (socket.as_fd(), Interest::Writable),
            Self::Unix(watch) => (watch.as_fd(), Interest::Readable),
            Self::Peer(probe) => (probe.as_fd(), Interest::Writable),
        }
    }
}

/// Returns a socket connected to `peer`, if the queue of `peer` is full. Returns `None` if our own
/// send buffer is full instead.
fn full_peer(peer: &SockAddr) -> io::Result<Option<Socket>> {
    let probe = Socket::new(peer.domain(), Type::DGRAM.nonblocking(), None)?;
    match probe.connect(peer) {
        Ok(()) => {}
        // The peer is connected, perhaps to this socket. Then only its own peer may send to it, and
        // no queue limits that.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => return Err(error),
    }
    let is_full = poll_now(probe.as_fd(), Interest::Writable).is_err();
    Ok(is_full.then_some(probe))
}

impl Operation for SendReady {
    type Output = io::Result<()>;
    /// A send waits for it.
    const ACTIVITY: Activity = Activity::Active;

    fn request(&mut self) -> Request<'_> {
        let (descriptor, interest) = self.readiness();
        Request::Ready { descriptor, interest }
    }

    fn attempt(&mut self) -> io::Result<u32> {
        let (descriptor, interest) = self.readiness();
        poll_now(descriptor, interest)
    }

    fn finish(self, result: io::Result<u32>) -> Self::Output {
        result.map(drop)
    }
}
