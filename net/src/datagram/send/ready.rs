//! [`SendReady`]: the wait for buffer space for a datagram that could not be sent at once.
//!
//! The send itself is then tried again by the plain call. Left to io_uring it would be retried by
//! the kernel, which on Linux 6.18 sends an *empty* datagram the second time: a Unix socket copies
//! the payload before it finds the queue full, and the retry goes on where the copy has ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use ebbtide_runtime::driver::{Activity, Interest, Operation, Request, poll_now, watch_writable};
use socket2::{SockAddr, Socket, Type};

use crate::datagram::registered::RegisteredSocket;
use crate::sys::socket::Family;

/// Keeps what is asked open.
#[derive(Debug)]
pub(crate) enum SendReady {
    /// In the send buffer of a UDP socket.
    Internet(Rc<RegisteredSocket>),
    /// In the send buffer of a Unix socket, and in the queue of the peer that it is connected to.
    /// Asked for nothing but room, because a socket that is sealed seems ready always.
    Unix(OwnedFd),
    /// In the queue of a Unix socket that one is not connected to. The kernel tells of it only on a
    /// socket that is connected to the peer (`unix_dgram_poll`), and any other seems writable
    /// always: so a socket of our own is connected to it, to ask.
    Peer(Socket),
}

impl SendReady {
    /// The wait of a send from `socket` to `to`, or to the connected peer.
    ///
    /// # Errors
    ///
    /// Those of connect(2) to a Unix peer, which are those that sending to it would give; and that
    /// no descriptor is left.
    pub(crate) fn new(socket: &Rc<RegisteredSocket>, to: Option<&SockAddr>) -> io::Result<Self> {
        if socket.family() == Family::Internet || socket.is_model() {
            return Ok(Self::Internet(Rc::clone(socket)));
        }
        match to.map(full_peer).transpose()?.flatten() {
            Some(probe) => Ok(Self::Peer(probe)),
            None => watch_writable(socket.as_fd()).map(Self::Unix),
        }
    }

    /// What to wait for.
    fn readiness(&self) -> (BorrowedFd<'_>, Interest) {
        match self {
            Self::Internet(socket) => (socket.as_fd(), Interest::Writable),
            Self::Unix(watch) => (watch.as_fd(), Interest::Readable),
            Self::Peer(probe) => (probe.as_fd(), Interest::Writable),
        }
    }
}

/// A socket connected to `peer`, if that has a full queue. `None`: then it is our own send buffer
/// that is full.
fn full_peer(peer: &SockAddr) -> io::Result<Option<Socket>> {
    let probe = Socket::new(peer.domain(), Type::DGRAM.nonblocking(), None)?;
    match probe.connect(peer) {
        Ok(()) => {}
        // The peer is connected, perhaps to us: only its own peer may send to it, and no queue
        // limits that.
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
