//! Receives. What has arrived goes to a receiver that polls.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide::{DrainOutcome, JoinHandle, drain};
use ebbtide_testkit::{Shape, on_every_shape};
use futures_util::FutureExt;

on_every_shape!(
    a_datagram_whose_waiter_is_held_goes_to_the_next,
    a_datagram_whose_waiter_is_forgotten_goes_to_the_next,
    however_many_are_held_the_last_is_served,
    a_busy_loop_serves_the_next_as_well,
    an_error_whose_waiter_is_held_goes_to_the_next,
    what_is_left_of_a_train_goes_to_the_next,
    a_drain_delivers_past_a_held_receive,
    receivers_that_come_are_not_woken_in_vain,
);

/// A socket, and one that sends to it.
fn sockets() -> (Rc<UdpSocket>, std::net::UdpSocket) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    (Rc::new(receiver), sender)
}

/// A task that receives `count` datagrams. It waits when this returns.
async fn receiver(socket: &Rc<UdpSocket>, count: usize) -> JoinHandle<()> {
    let socket = Rc::clone(socket);
    let task = ebbtide::spawn(async move {
        for _ in 0..count {
            socket.recv().await.unwrap().expect("not drained");
        }
    });
    yield_now().await;
    task
}

/// Hangs when the datagram waits for the receiver that was woken first.
fn a_datagram_whose_waiter_is_held_goes_to_the_next(shape: Shape) {
    shape.runtime().block_on(async {
        let (socket, sender) = sockets();
        let mut held = socket.recv();
        assert!((&mut held).now_or_never().is_none());
        let next = receiver(&socket, 1).await;
        sender.send(b"for a receiver that polls").unwrap();
        next.await.unwrap();
        sender.send(b"for the one that was held").unwrap();
        held.await.unwrap().expect("not drained");
    });
}

/// Hangs when the datagram waits for the receiver that was woken first.
fn a_datagram_whose_waiter_is_forgotten_goes_to_the_next(shape: Shape) {
    shape.runtime().block_on(async {
        let (socket, sender) = sockets();
        let mut forgotten = Box::pin(socket.recv());
        assert!((&mut forgotten).now_or_never().is_none());
        std::mem::forget(forgotten);
        let next = receiver(&socket, 20).await;
        for _ in 0..20 {
            sender.send(b"for a receiver that polls").unwrap();
        }
        next.await.unwrap();
    });
}

/// Hangs when the wake is passed on only once.
fn however_many_are_held_the_last_is_served(shape: Shape) {
    shape.runtime().block_on(async {
        let (socket, sender) = sockets();
        let mut held: Vec<_> = (0..10).map(|_| socket.recv()).collect();
        for recv in &mut held {
            assert!(recv.now_or_never().is_none());
        }
        let next = receiver(&socket, 1).await;
        sender.send(b"for a receiver that polls").unwrap();
        next.await.unwrap();
    });
}

/// Fails when a wake is passed on only before the loop sleeps.
fn a_busy_loop_serves_the_next_as_well(shape: Shape) {
    shape.runtime().block_on(async {
        let (socket, sender) = sockets();
        let mut held = socket.recv();
        assert!((&mut held).now_or_never().is_none());
        let next = receiver(&socket, 1).await;
        sender.send(b"for a receiver that polls").unwrap();
        // Each yield is a turn that does not sleep.
        for _ in 0..100_000 {
            if next.is_finished() {
                return;
            }
            yield_now().await;
        }
        panic!("the next receiver was not woken");
    });
}

/// Hangs when only datagrams are passed on, and errors are not.
fn an_error_whose_waiter_is_held_goes_to_the_next(shape: Shape) {
    shape.runtime().block_on(async {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let nobody = {
            let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            gone.local_addr().unwrap()
        };
        socket.connect(nobody).unwrap();
        let mut held = socket.recv();
        assert!((&mut held).now_or_never().is_none());
        let next = ebbtide::spawn({
            let socket = Rc::clone(&socket);
            async move { socket.recv().await.map(drop) }
        });
        yield_now().await;
        socket.try_send(b"refused").unwrap();
        let error = next.await.unwrap().expect_err("the port is closed");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

/// The first receiver that takes a datagram of a train wakes the next, which may not be polled.
/// Hangs when the others then wait.
fn what_is_left_of_a_train_goes_to_the_next(shape: Shape) {
    shape.runtime().block_on(async {
        let (socket, _) = sockets();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(socket.local_addr().unwrap()).unwrap();
        let first = receiver(&socket, 1).await;
        let mut held = socket.recv();
        assert!((&mut held).now_or_never().is_none());
        let last = receiver(&socket, 1).await;
        let train = ebbtide::net::Transmit::new(&[7; 200]).segment_size(100);
        sender.send_batch(&[train]).await.unwrap();
        first.await.unwrap();
        last.await.unwrap();
    });
}

/// Fails when a drain waits for a receive that is not polled although another one waits, because it
/// then ends at its deadline.
fn a_drain_delivers_past_a_held_receive(shape: Shape) {
    shape.runtime().block_on(async {
        let (socket, sender) = sockets();
        let mut held = socket.recv();
        assert!((&mut held).now_or_never().is_none());
        let received = Rc::new(Cell::new(0));
        ebbtide::spawn({
            let (socket, received) = (Rc::clone(&socket), Rc::clone(&received));
            async move {
                while socket.recv().await.unwrap().is_some() {
                    received.set(received.get() + 1);
                }
            }
        });
        yield_now().await;
        for _ in 0..100 {
            sender.send(b"for a receiver that polls").unwrap();
        }
        let report = drain().await;
        assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Complete, 0), "{report}");
        assert_eq!(received.get(), 100);
        assert!(held.await.unwrap().is_none());
    });
}

/// Counts the polls of a future.
struct CountPolls<F> {
    future: F,
    polls: Rc<Cell<usize>>,
}

impl<F: Future + Unpin> Future for CountPolls<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.polls.set(self.polls.get() + 1);
        Pin::new(&mut self.future).poll(cx)
    }
}

/// One datagram wakes only one receiver, however many wait, if that receiver polls. Fails when all
/// are woken, or when the next one is woken before the first has had its turn.
fn receivers_that_come_are_not_woken_in_vain(shape: Shape) {
    const RECEIVERS: usize = 20;
    shape.runtime().block_on(async {
        let (socket, sender) = sockets();
        let polls = Rc::new(Cell::new(0));
        let received = Rc::new(Cell::new(0));
        for _ in 0..RECEIVERS {
            let (socket, polls) = (Rc::clone(&socket), Rc::clone(&polls));
            let received = Rc::clone(&received);
            ebbtide::spawn(async move {
                loop {
                    let recv = CountPolls { future: socket.recv(), polls: Rc::clone(&polls) };
                    recv.await.unwrap().expect("not drained");
                    received.set(received.get() + 1);
                }
            });
        }
        yield_now().await;
        assert_eq!(polls.replace(0), RECEIVERS, "all wait");
        for datagrams in 1..=50 {
            sender.send(b"for one of them").unwrap();
            while received.get() < datagrams {
                yield_now().await;
            }
            yield_now().await;
            // One poll takes the datagram, and one waits for the next.
            assert_eq!(polls.get(), 2 * datagrams, "{}", shape.name);
        }
    });
}
