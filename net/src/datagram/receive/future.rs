//! The futures and the stream for receiving. All are `Unpin`, so that a `select` can use them by
//! reference.

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ebbtide_runtime::task::poll_receive_budget;
use futures_core::Stream;

use super::ReceivedMessage;
use super::inbox::Take;
use super::waiters::WaiterKey;
use crate::datagram::endpoint::Endpoint;
use crate::datagram::message::{Datagram, Train};
use crate::sys::address::Address;

/// A place in the queue of receivers. If it is dropped after it was woken, the next receiver is
/// woken.
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
        take: Take,
        cx: &Context<'_>,
        wrap: impl FnOnce(ReceivedMessage) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        self.endpoint.receive.poll(&self.endpoint.socket, take, &mut self.key, cx, wrap)
    }
}

impl Drop for Waiting<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.endpoint.receive.abandon(key);
        }
    }
}

impl fmt::Debug for Waiting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Future returned by [`recv`](crate::DatagramSocket::recv).
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Recv<'a, A> {
    waiting: Waiting<'a>,
    address: PhantomData<fn() -> A>,
}

impl<'a, A> Recv<'a, A> {
    pub(crate) fn new(endpoint: &'a Endpoint) -> Self {
        Self { waiting: Waiting::new(endpoint), address: PhantomData }
    }
}

impl<A: Address> Future for Recv<'_, A> {
    type Output = io::Result<Option<Datagram<A>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.waiting.poll(Take::One, cx, Datagram::new)
    }
}

/// Future returned by [`recv_train`](crate::UdpSocket::recv_train).
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct RecvTrain<'a> {
    waiting: Waiting<'a>,
}

impl<'a> RecvTrain<'a> {
    pub(crate) fn new(endpoint: &'a Endpoint) -> Self {
        Self { waiting: Waiting::new(endpoint) }
    }
}

impl Future for RecvTrain<'_> {
    type Output = io::Result<Option<Train>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.waiting.poll(Take::Train, cx, Train::new)
    }
}

/// Future returned by [`recv_from`](crate::DatagramSocket::recv_from).
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct RecvFrom<'a, A> {
    recv: Recv<'a, A>,
    buf: &'a mut [u8],
}

impl<'a, A> RecvFrom<'a, A> {
    pub(crate) fn new(endpoint: &'a Endpoint, buf: &'a mut [u8]) -> Self {
        Self { recv: Recv::new(endpoint), buf }
    }
}

impl<A: Address> Future for RecvFrom<'_, A> {
    type Output = io::Result<Option<(usize, A)>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(datagram) = ready!(Pin::new(&mut self.recv).poll(cx))? else {
            return Poll::Ready(Ok(None));
        };
        let len = datagram.len().min(self.buf.len());
        self.buf[..len].copy_from_slice(&datagram[..len]);
        Poll::Ready(Ok(Some((len, datagram.peer()))))
    }
}

/// Future returned by [`recv_batch`](crate::DatagramSocket::recv_batch).
#[must_use = "futures do nothing unless awaited"]
pub struct RecvBatch<'a, A> {
    recv: Recv<'a, A>,
    batch: &'a mut Vec<Datagram<A>>,
    limit: usize,
}

impl<'a, A> RecvBatch<'a, A> {
    pub(crate) fn new(
        endpoint: &'a Endpoint,
        batch: &'a mut Vec<Datagram<A>>,
        limit: usize,
    ) -> Self {
        Self { recv: Recv::new(endpoint), batch, limit }
    }
}

impl<A: Address> Future for RecvBatch<'_, A> {
    type Output = io::Result<usize>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.limit == 0 {
            ready!(poll_receive_budget(cx));
            return Poll::Ready(Ok(0));
        }
        let Some(first) = ready!(Pin::new(&mut this.recv).poll(cx))? else {
            return Poll::Ready(Ok(0));
        };
        this.batch.push(first);
        let endpoint = this.recv.waiting.endpoint;
        let rest = std::iter::from_fn(|| endpoint.receive.take_datagram(&endpoint.socket))
            .take(this.limit - 1);
        let before = this.batch.len();
        this.batch.extend(rest.map(Datagram::new));
        Poll::Ready(Ok(1 + this.batch.len() - before))
    }
}

impl<A> fmt::Debug for RecvBatch<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBatch").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// Stream returned by [`incoming`](crate::DatagramSocket::incoming). It ends when the socket is
/// drained.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Incoming<'a, A> {
    recv: Recv<'a, A>,
}

impl<'a, A> Incoming<'a, A> {
    pub(crate) fn new(endpoint: &'a Endpoint) -> Self {
        Self { recv: Recv::new(endpoint) }
    }
}

impl<A: Address> Stream for Incoming<'_, A> {
    type Item = io::Result<Datagram<A>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.recv).poll(cx).map(Result::transpose)
    }
}
