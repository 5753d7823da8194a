//! A dropped receive future loses nothing, because datagrams belong to the socket.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ebbtide::net::{Recv, UdpSocket, UnixAddr, UnixDatagram};
use ebbtide::time::sleep;
use ebbtide_testkit::{Ledger, Shape, numbered, on_every_shape};
use futures_util::future::{Either, select};

on_every_shape!(
    dropped_recv_keeps_its_datagram,
    recv_raced_with_a_timer_keeps_its_datagram,
    a_woken_recv_that_is_dropped_passes_its_wake_on,
);

const DATAGRAMS: u64 = 100_000;

/// Polls `future` up to `polls` times, once for each wake of the task, then drops it.
async fn poll_up_to<F: Future + Unpin>(mut future: F, polls: usize) -> Option<F::Output> {
    for _ in 0..polls {
        let polled = std::future::poll_fn(|cx| Poll::Ready(future_poll(&mut future, cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        ebbtide::task::yield_now().await;
    }
    None
}

fn future_poll<F: Future + Unpin>(future: &mut F, cx: &mut Context<'_>) -> Poll<F::Output> {
    pin!(future).poll(cx)
}

/// Fails when a datagram is moved to the future instead of the socket.
fn dropped_recv_keeps_its_datagram(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        let sending = ebbtide::spawn(async move {
            for number in 0..DATAGRAMS {
                sender.send(&numbered(0, number, 12)).await.unwrap();
            }
        });
        let mut random = fastrand::Rng::with_seed(1);
        let mut ledger = Ledger::default();
        let mut dropped = 0u64;
        while ledger.received < DATAGRAMS || dropped < DATAGRAMS {
            if ledger.received == DATAGRAMS {
                // Everything was received, so this drop cannot lose anything.
                let recv: Recv<'_, UnixAddr> = receiver.recv();
                assert!(poll_up_to(recv, 1).await.is_none());
                dropped += 1;
                continue;
            }
            match poll_up_to(receiver.recv(), random.usize(0..=4)).await {
                Some(datagram) => ledger.enter(&datagram.unwrap().expect("not drained")),
                None => dropped += 1,
            }
        }
        sending.await.unwrap();
        assert_eq!((ledger.received, ledger.holes), (DATAGRAMS, 0), "{}", shape.name);
    });
}

fn recv_raced_with_a_timer_keeps_its_datagram(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = receiver.local_addr().unwrap();
        let sending = ebbtide::spawn(async move {
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            for number in 0..DATAGRAMS {
                sender.send_to(&numbered(0, number, 12), address).await.unwrap();
                if number % 64 == 63 {
                    ebbtide::task::yield_now().await;
                }
            }
        });
        let mut ledger = Ledger::default();
        let mut random = fastrand::Rng::with_seed(2);
        let mut timeouts = 0u64;
        while ledger.received + receiver.stats().dropped_by_kernel < DATAGRAMS {
            let timer = pin!(sleep(Duration::from_micros(random.usize(0..=20) as u64)));
            match select(timer, receiver.recv()).await {
                Either::Left(_) => timeouts += 1,
                Either::Right((datagram, _)) => {
                    ledger.enter(&datagram.unwrap().expect("not drained"));
                }
            }
        }
        sending.await.unwrap();
        let dropped = receiver.stats().dropped_by_kernel;
        assert_eq!(ledger.received + dropped, DATAGRAMS, "{}", shape.name);
        assert!(ledger.holes <= dropped, "{}: {ledger:?}", shape.name);
        assert!(timeouts > 0, "the timer never won");
    });
}

/// Fails when a dropped waiter keeps its wake, because the second task then waits for ever.
fn a_woken_recv_that_is_dropped_passes_its_wake_on(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        let receiver = std::rc::Rc::new(receiver);
        let second = ebbtide::spawn({
            let receiver = receiver.clone();
            async move {
                ebbtide::task::yield_now().await;
                receiver.recv().await
            }
        });
        let mut first = receiver.recv();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(future_poll(&mut first, &mut cx).is_pending());
        for _ in 0..3 {
            ebbtide::task::yield_now().await;
        }
        sender.send(b"one").await.unwrap();
        while receiver.stats().received == 0 {
            ebbtide::task::yield_now().await;
        }
        drop(first);
        for _turn in 0..1_000 {
            ebbtide::task::yield_now().await;
        }
        assert!(second.is_finished(), "{}: the second task was not woken", shape.name);
        let datagram = second.await.unwrap().unwrap().expect("not drained");
        assert_eq!(&datagram[..], b"one", "{}", shape.name);
    });
}
