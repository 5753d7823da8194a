//! The futures for sending. All are `Unpin`, so that a `select` can use them by reference.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ebbtide_runtime::driver::{Interest, poll_now};
use ebbtide_runtime::task::{GiveWay, poll_send_budget};
use socket2::SockAddr;

use super::Progress;
use super::coalescer::Ticket;
use super::plan::Transmit;
use super::space::{Space, SpaceWait};
use crate::datagram::endpoint::Endpoint;

/// Future returned by [`send`](crate::UdpSocket::send) and [`send_to`](crate::UdpSocket::send_to).
#[must_use = "futures do nothing unless awaited"]
pub struct Sending<'a> {
    endpoint: &'a Endpoint,
    payload: &'a [u8],
    /// An error is kept for the first poll, which takes it.
    to: Result<Option<SockAddr>, Option<io::Error>>,
    route: Route,
}

/// How a send leaves.
enum Route {
    /// By itself. `None` while it does not wait. On the heap, so that a future that does not wait
    /// is cheap to move.
    Alone(Option<Box<SpaceWait>>),
    /// Together with other sends. `None` while it is not in the coalescer.
    Together(Option<Ticket>),
}

impl<'a> Sending<'a> {
    pub(crate) fn new(
        endpoint: &'a Endpoint,
        payload: &'a [u8],
        to: io::Result<Option<SockAddr>>,
    ) -> Self {
        let route = match endpoint.send.coalesces.get() {
            true => Route::Together(None),
            false => Route::Alone(None),
        };
        Self { endpoint, payload, to: to.map_err(Some), route }
    }
}

impl Future for Sending<'_> {
    type Output = io::Result<usize>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let to = match &mut this.to {
            Ok(to) => to.as_ref(),
            // Moved, because a copy made from kind and text would have no errno.
            Err(error) => {
                ready!(poll_send_budget(cx, 0));
                return Poll::Ready(Err(error.take().expect("a future ends once")));
            }
        };
        let (send, on) = (&this.endpoint.send, this.endpoint.sends());
        match &mut this.route {
            Route::Alone(space) => send.poll_send(on, this.payload, to, space, cx),
            Route::Together(ticket) => send.poll_send_together(on, this.payload, to, ticket, cx),
        }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if let Route::Together(Some(ticket)) = self.route {
            self.endpoint.send.abandon_send(ticket);
        }
    }
}

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("len", &self.payload.len()).finish_non_exhaustive()
    }
}

/// Future returned by [`send_batch`](crate::UdpSocket::send_batch).
#[must_use = "futures do nothing unless awaited"]
pub struct SendBatch<'a> {
    endpoint: &'a Endpoint,
    transmits: &'a [Transmit<'a>],
    progress: Progress,
    /// `None` while it does not wait for buffer space.
    space: Option<Box<SpaceWait>>,
}

impl<'a> SendBatch<'a> {
    pub(crate) fn new(endpoint: &'a Endpoint, transmits: &'a [Transmit<'a>]) -> Self {
        Self { endpoint, transmits, progress: Progress::default(), space: None }
    }
}

impl Future for SendBatch<'_> {
    type Output = io::Result<usize>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let (send, on) = (&this.endpoint.send, this.endpoint.sends());
        send.poll_send_batch(on, this.transmits, &mut this.progress, &mut this.space, cx)
    }
}

impl fmt::Debug for SendBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBatch")
            .field("transmits", &self.transmits.len())
            .finish_non_exhaustive()
    }
}

/// Future returned by [`writable`](crate::DatagramSocket::writable).
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Writable<'a> {
    endpoint: &'a Endpoint,
    /// `None` until the first poll.
    waiting: Option<SpaceWait>,
    way: GiveWay,
}

impl<'a> Writable<'a> {
    pub(crate) fn new(endpoint: &'a Endpoint) -> Self {
        Self { endpoint, waiting: None, way: GiveWay::default() }
    }
}

impl Future for Writable<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.waiting.is_none() {
            // If the runtime of the socket has ended, every call returns at once. So give way
            // first.
            ready!(this.way.poll(cx));
        }
        loop {
            let waiting = match &mut this.waiting {
                Some(waiting) => waiting,
                none => none.insert(SpaceWait::new(&this.endpoint.socket, None)?),
            };
            let space = ready!(waiting.poll(cx))?;
            if space == Space::Found || poll_now(this.endpoint.as_fd(), Interest::Writable).is_ok()
            {
                return Poll::Ready(Ok(()));
            }
            this.waiting = None;
        }
    }
}
