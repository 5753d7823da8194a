//! The futures and the stream that the sockets' methods return. All are `Unpin`, so that they can
//! be used in a `select` by reference.

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use ebbtide_runtime::driver::{Interest, ReceivedMessage, poll_now};
use ebbtide_runtime::task::{GiveWay, poll_receive_budget, poll_send_budget};
use futures_core::Stream;
use socket2::SockAddr;

use super::endpoint::Endpoint;
use super::inbox::Portion;
use super::message::{Datagram, Train};
use super::outbox::Ticket;
use super::sender::Progress;
use super::space::{Space, SpaceWait};
use super::transmit::Transmit;
use super::waiters::WaiterKey;
use crate::address::Address;

/// A place in the queue of those who wait for a datagram. Passes its wake on when it is dropped.
struct Waiting<'a> {
    endpoint: &'a Endpoint,
    /// `None` while it does not wait.
    key: Option<WaiterKey>,
}

impl<'a> Waiting<'a> {
    fn new(endpoint: &'a Endpoint) -> Self {
        Self { endpoint, key: None }
    }

    #[inline(always)]
    fn poll<T>(
        &mut self,
        portion: Portion,
        cx: &Context<'_>,
        wrap: impl FnOnce(ReceivedMessage) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        self.endpoint.poll_receive(portion, &mut self.key, cx, wrap)
    }
}

impl Drop for Waiting<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.endpoint.abandon_receive(key);
        }
    }
}

impl fmt::Debug for Waiting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The future of `recv`.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Recv<'a, A> {
    waiting: Waiting<'a>,
    address: PhantomData<fn() -> A>,
}

impl<'a, A> Recv<'a, A> {
    pub(super) fn new(endpoint: &'a Endpoint) -> Self {
        Self { waiting: Waiting::new(endpoint), address: PhantomData }
    }
}

impl<A: Address> Future for Recv<'_, A> {
    type Output = io::Result<Option<Datagram<A>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.waiting.poll(Portion::Datagram, cx, Datagram::new)
    }
}

/// The future of `recv_train`.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct RecvTrain<'a> {
    waiting: Waiting<'a>,
}

impl<'a> RecvTrain<'a> {
    pub(super) fn new(endpoint: &'a Endpoint) -> Self {
        Self { waiting: Waiting::new(endpoint) }
    }
}

impl Future for RecvTrain<'_> {
    type Output = io::Result<Option<Train>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.waiting.poll(Portion::Message, cx, Train::new)
    }
}

/// The future of `recv_from`.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct RecvFrom<'a, A> {
    recv: Recv<'a, A>,
    memory: &'a mut [u8],
}

impl<'a, A> RecvFrom<'a, A> {
    pub(super) fn new(endpoint: &'a Endpoint, memory: &'a mut [u8]) -> Self {
        Self { recv: Recv::new(endpoint), memory }
    }
}

impl<A: Address> Future for RecvFrom<'_, A> {
    type Output = io::Result<Option<(usize, A)>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(datagram) = ready!(Pin::new(&mut self.recv).poll(cx))? else {
            return Poll::Ready(Ok(None));
        };
        let len = datagram.len().min(self.memory.len());
        self.memory[..len].copy_from_slice(&datagram[..len]);
        Poll::Ready(Ok(Some((len, datagram.peer()))))
    }
}

/// The future of `recv_batch`.
#[must_use = "futures do nothing unless awaited"]
pub struct RecvBatch<'a, A> {
    recv: Recv<'a, A>,
    batch: &'a mut Vec<Datagram<A>>,
    most: usize,
}

impl<'a, A> RecvBatch<'a, A> {
    pub(super) fn new(
        endpoint: &'a Endpoint,
        batch: &'a mut Vec<Datagram<A>>,
        most: usize,
    ) -> Self {
        Self { recv: Recv::new(endpoint), batch, most }
    }
}

impl<A: Address> Future for RecvBatch<'_, A> {
    type Output = io::Result<usize>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.most == 0 {
            ready!(poll_receive_budget(cx));
            return Poll::Ready(Ok(0));
        }
        let Some(first) = ready!(Pin::new(&mut this.recv).poll(cx))? else {
            return Poll::Ready(Ok(0));
        };
        this.batch.push(first);
        let endpoint = this.recv.waiting.endpoint;
        let rest = std::iter::from_fn(|| endpoint.take_datagram()).take(this.most - 1);
        let before = this.batch.len();
        this.batch.extend(rest.map(Datagram::new));
        Poll::Ready(Ok(1 + this.batch.len() - before))
    }
}

impl<A> fmt::Debug for RecvBatch<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBatch").field("most", &self.most).finish_non_exhaustive()
    }
}

/// The stream of `incoming`: every datagram, until the socket is drained.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Incoming<'a, A> {
    recv: Recv<'a, A>,
}

impl<'a, A> Incoming<'a, A> {
    pub(super) fn new(endpoint: &'a Endpoint) -> Self {
        Self { recv: Recv::new(endpoint) }
    }
}

impl<A: Address> Stream for Incoming<'_, A> {
    type Item = io::Result<Datagram<A>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.recv).poll(cx).map(Result::transpose)
    }
}

/// The future of `send` and `send_to`.
#[must_use = "futures do nothing unless awaited"]
pub struct Sending<'a> {
    endpoint: &'a Rc<Endpoint>,
    payload: &'a [u8],
    /// An error is kept for the first poll, which takes it.
    to: Result<Option<SockAddr>, Option<io::Error>>,
    route: Route,
}

/// How a send leaves.
enum Route {
    /// By itself. `None` while nothing has to be waited for; on the heap, so that a future that does not
    /// wait is small to move.
    Alone(Option<Box<SpaceWait>>),
    /// With the sends of others. `None` while it is not in the outbox.
    Together(Option<Ticket>),
}

impl<'a> Sending<'a> {
    pub(super) fn new(
        endpoint: &'a Rc<Endpoint>,
        payload: &'a [u8],
        to: io::Result<Option<SockAddr>>,
    ) -> Self {
        let route = match endpoint.sender.coalesces.get() {
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
            // Moved, not copied: a copy by kind and text would have no errno.
            Err(error) => {
                ready!(poll_send_budget(cx, 0));
                return Poll::Ready(Err(error.take().expect("a future ends once")));
            }
        };
        match &mut this.route {
            Route::Alone(space) => this.endpoint.poll_send(this.payload, to, space, cx),
            Route::Together(ticket) => {
                this.endpoint.poll_send_together(this.payload, to, ticket, cx)
            }
        }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if let Route::Together(Some(ticket)) = self.route {
            self.endpoint.abandon_send(ticket);
        }
    }
}

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("len", &self.payload.len()).finish_non_exhaustive()
    }
}

/// The future of `send_batch`.
#[must_use = "futures do nothing unless awaited"]
pub struct SendBatch<'a> {
    endpoint: &'a Rc<Endpoint>,
    transmits: &'a [Transmit<'a>],
    progress: Progress,
    /// `None` while nothing has to be waited for.
    space: Option<Box<SpaceWait>>,
}

impl<'a> SendBatch<'a> {
    pub(super) fn new(endpoint: &'a Rc<Endpoint>, transmits: &'a [Transmit<'a>]) -> Self {
        Self { endpoint, transmits, progress: Progress::default(), space: None }
    }
}

impl Future for SendBatch<'_> {
    type Output = io::Result<usize>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.endpoint.poll_send_batch(this.transmits, &mut this.progress, &mut this.space, cx)
    }
}

impl fmt::Debug for SendBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBatch")
            .field("transmits", &self.transmits.len())
            .finish_non_exhaustive()
    }
}

/// The future of `writable`.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Writable<'a> {
    endpoint: &'a Rc<Endpoint>,
    /// `None` until it was polled.
    waiting: Option<SpaceWait>,
    way: GiveWay,
}

impl<'a> Writable<'a> {
    pub(super) fn new(endpoint: &'a Rc<Endpoint>) -> Self {
        Self { endpoint, waiting: None, way: GiveWay::default() }
    }
}

impl Future for Writable<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.waiting.is_none() {
            // A socket whose runtime has ended answers at once, each time.
            ready!(this.way.poll(cx));
        }
        loop {
            let waiting = match &mut this.waiting {
                Some(waiting) => waiting,
                none => none.insert(SpaceWait::new(this.endpoint, None)?),
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
