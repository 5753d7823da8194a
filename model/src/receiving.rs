//! The ways in which a task receives, and the checks of what it receives.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use ebbtide_net::Datagram;
use ebbtide_runtime::time::timeout;
use futures_core::Stream;

use crate::address::Peer;
use crate::coverage::Event;
use crate::program::Program;
use crate::socket::{Arrival, Kind};
use crate::world::{Shared, World};

/// How to receive once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Recv,
    RecvFrom,
    RecvBatch,
    Timeout,
    /// Polled once, then dropped.
    PolledOnce,
    TryRecv,
    Incoming,
    /// Two receives at the same time, of which one is dropped.
    Select,
    /// Receives a whole train.
    Train,
}

pub(crate) const WAYS: [Way; 9] = [
    Way::Recv,
    Way::RecvFrom,
    Way::RecvBatch,
    Way::Timeout,
    Way::PolledOnce,
    Way::TryRecv,
    Way::Incoming,
    Way::Select,
    Way::Train,
];

/// The result of a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Some(usize),
    /// Nothing was there, or the receive was dropped too early.
    Nothing,
    /// The socket is drained.
    End,
}

/// Receives once from the socket `index` of the world.
pub(crate) async fn receive<A: Peer>(
    program: &Program,
    socket: &A::Socket,
    index: usize,
    way: Way,
) -> Received {
    let world = &program.world;
    match way {
        Way::Recv => {
            let received = Tracked::new(world, index, socket.recv()).await;
            one(program, index, received)
        }
        Way::RecvFrom => {
            let len = world.borrow_mut().choices.between(1, 100);
            let mut memory = vec![0; len];
            let received = Tracked::new(world, index, socket.recv_from(&mut memory)).await;
            match received {
                Ok(Some((count, peer))) => {
                    let sender = peer.sender();
                    let payload = &memory[..count];
                    world.borrow_mut().deliver(index, &Seen { payload, sender, whole: None }, len);
                    Received::Some(1)
                }
                Ok(None) => end(world, index),
                Err(error) => failed(world, index, &error),
            }
        }
        Way::RecvBatch => {
            let most = world.borrow_mut().choices.between(1, 6);
            // Boxed, like everything here that is borrowed across an await. For Miri, async-task
            // accesses the whole future, including its borrows (`Checked::poll`).
            let mut batch = Box::new(Vec::new());
            match Tracked::new(world, index, socket.recv_batch(&mut batch, most)).await {
                Ok(0) => end(world, index),
                Ok(count) => {
                    if count != batch.len() {
                        let what =
                            format!("recv_batch returned {count}, but added {}", batch.len());
                        world.borrow_mut().violate(what);
                    }
                    if count > 1 {
                        world.borrow_mut().note(Event::BatchTaken);
                    }
                    for datagram in *batch {
                        delivered(program, index, datagram);
                    }
                    Received::Some(count)
                }
                Err(error) => failed(world, index, &error),
            }
        }
        Way::Timeout => {
            let time = world.borrow_mut().choices.below(4) as u64;
            let receive = Tracked::new(world, index, socket.recv());
            match timeout(Duration::from_millis(time), receive).await {
                Ok(received) => one(program, index, received),
                Err(_elapsed) => {
                    world.borrow_mut().note(Event::TimeoutElapsed);
                    Received::Nothing
                }
            }
        }
        Way::PolledOnce => {
            let mut receive = Some(Tracked::new(world, index, socket.recv()));
            poll_fn(|cx| {
                let polled = receive.as_mut().map(|receive| Pin::new(receive).poll(cx));
                receive = None;
                Poll::Ready(match polled {
                    Some(Poll::Ready(received)) => one(program, index, received),
                    _ => Received::Nothing,
                })
            })
            .await
        }
        Way::TryRecv => match socket.try_recv() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                world.borrow_mut().note(Event::TriedEmpty);
                Received::Nothing
            }
            received => one(program, index, received),
        },
        Way::Incoming => {
            let mut incoming = Box::new(socket.incoming());
            let next = poll_fn(move |cx| Pin::new(&mut *incoming).poll_next(cx));
            let received = Tracked::new(world, index, Box::pin(next)).await;
            one(program, index, received.transpose())
        }
        Way::Train => {
            let Some(receive) = A::recv_train(socket) else {
                // A Unix socket has no trains.
                let received = Tracked::new(world, index, socket.recv()).await;
                return one(program, index, received);
            };
            match Tracked::new(world, index, receive).await {
                Ok(Some(train)) => {
                    let sender = train.peer().sender();
                    if train.count() > 1 {
                        world.borrow_mut().note(Event::TrainTaken);
                    }
                    for payload in train.datagrams() {
                        let seen = Seen { payload, sender, whole: None };
                        world.borrow_mut().deliver(index, &seen, usize::MAX);
                    }
                    Received::Some(train.count())
                }
                Ok(None) => end(world, index),
                Err(error) => failed(world, index, &error),
            }
        }
        Way::Select => {
            let receive = || Tracked::new(world, index, socket.recv());
            let mut both = Box::new([receive(), receive()]);
            let received = poll_fn(move |cx| {
                for receive in &mut *both {
                    if let Poll::Ready(received) = Pin::new(receive).poll(cx) {
                        return Poll::Ready(received);
                    }
                }
                Poll::Pending
            })
            .await;
            one(program, index, received)
        }
    }
}

fn one<A: Peer>(
    program: &Program,
    index: usize,
    received: io::Result<Option<Datagram<A>>>,
) -> Received {
    match received {
        Ok(Some(datagram)) => {
            delivered(program, index, datagram);
            Received::Some(1)
        }
        Ok(None) => end(&program.world, index),
        Err(error) => failed(&program.world, index, &error),
    }
}

fn delivered<A: Peer>(program: &Program, index: usize, datagram: Datagram<A>) {
    let seen = Seen {
        payload: &datagram,
        sender: datagram.peer().sender(),
        whole: Some((datagram.original_len(), datagram.is_truncated())),
    };
    program.world.borrow_mut().deliver(index, &seen, usize::MAX);
    program.keep(index, datagram);
}

fn end(world: &Shared, index: usize) -> Received {
    world.borrow_mut().deliver_end(index);
    Received::End
}

fn failed(world: &Shared, index: usize, error: &io::Error) -> Received {
    world.borrow_mut().deliver_error(index, error);
    Received::Some(0)
}

/// A datagram, as a receiver sees it.
struct Seen<'a> {
    payload: &'a [u8],
    sender: Option<u16>,
    /// The length that was sent, and whether the datagram was truncated. `None` if this is not
    /// reported.
    whole: Option<(usize, bool)>,
}

impl World {
    /// A receiver got a datagram into memory of `room` bytes. It must be the first one of those
    /// that were taken from the kernel.
    fn deliver(&mut self, index: usize, seen: &Seen<'_>, room: usize) {
        self.note(Event::Delivered);
        let buffer_size = self.buffer_size;
        let socket = &mut self.sockets[index];
        let kind = socket.kind;
        socket.ledger.delivered += 1;
        let expected = match socket.ledger.in_inbox.pop_front() {
            Some(Arrival::Datagram(datagram)) => datagram,
            other => {
                let what = format!("socket {index}: a datagram was delivered, not {other:?}");
                return self.violate(what);
            }
        };
        socket.ledger.last_delivered = Some(expected.number);
        self.tell(format_args!("socket {index}: {} is delivered", expected.number));
        let sent = expected.payload.len();
        let captured = sent.min(buffer_size);
        if expected.payload[..captured.min(room)] != *seen.payload {
            let what =
                format!("socket {index}: {expected:?} should be delivered, not {:?}", seen.payload);
            return self.violate(what);
        }
        let is_unnamed = kind == Kind::Unix && expected.sender.is_multiple_of(3);
        let sender = (!is_unnamed).then_some(expected.sender);
        if seen.sender != sender {
            let what = format!("socket {index}: {expected:?} has the sender {:?}", seen.sender);
            return self.violate(what);
        }
        if seen.whole.is_some_and(|whole| whole != (sent, captured < sent)) {
            let what = format!("socket {index}: {expected:?} has the lengths {:?}", seen.whole);
            return self.violate(what);
        }
        if sent == 0 {
            self.note(Event::Empty);
        }
        if captured < sent {
            self.note(Event::Truncated);
        }
    }

    pub(crate) fn deliver_error(&mut self, index: usize, error: &io::Error) {
        self.note(Event::ErrorDelivered);
        let ledger = &mut self.sockets[index].ledger;
        ledger.errors_delivered += 1;
        match (ledger.in_inbox.pop_front(), error.raw_os_error()) {
            (Some(Arrival::Error(expected)), Some(errno)) if expected == errno => {}
            (expected, _) => {
                self.violate(format!("socket {index}: {error:?} was delivered, not {expected:?}"));
            }
        }
    }

    fn deliver_end(&mut self, index: usize) {
        self.tell(format_args!("socket {index}: its end is reported"));
        let socket = &self.sockets[index];
        let (left, queued) = (socket.ledger.in_inbox.len(), socket.queued());
        // A socket that could not be sealed may receive more.
        let is_over = left == 0 && (queued == 0 || !socket.is_sealed());
        if !is_over && socket.is_open() {
            let what =
                format!("socket {index}: its end was reported, but {left} were not delivered");
            self.violate(format!("{what}, and {queued} are queued"));
        }
    }
}

/// A receive future that counts as a waiting receiver while it waits.
pub(crate) struct Tracked<F> {
    world: Shared,
    index: usize,
    future: F,
    is_waiting: bool,
}

impl<F> Tracked<F> {
    fn new(world: &Shared, index: usize, future: F) -> Self {
        Self { world: Rc::clone(world), index, future, is_waiting: false }
    }
}

impl<F: Future + Unpin> Future for Tracked<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.future).poll(cx);
        let mut world = this.world.borrow_mut();
        let waiting = &mut world.sockets[this.index].ledger.waiting;
        match (&polled, this.is_waiting) {
            (Poll::Pending, false) => *waiting += 1,
            (Poll::Ready(_), true) => *waiting -= 1,
            _ => {}
        }
        this.is_waiting = polled.is_pending();
        if this.is_waiting {
            world.note(Event::Waited);
        }
        polled
    }
}

impl<F> Drop for Tracked<F> {
    fn drop(&mut self) {
        if !self.is_waiting {
            return;
        }
        let mut world = self.world.borrow_mut();
        let ledger = &mut world.sockets[self.index].ledger;
        ledger.waiting -= 1;
        let has_some = !ledger.in_inbox.is_empty();
        world.note(Event::FutureDropped);
        if has_some {
            world.note(Event::WakeHandedOver);
        }
    }
}
