//! A send that waits for space goes on waiting when its own socket is sealed.
//!
//! Cause: a Unix socket is sealed by `shutdown(SHUT_RD)`. From then on, poll reports `EPOLLRDHUP`
//! for it. io_uring polls for that event also when it waits for space (`IO_POLL_UNMASK`). It finds
//! no space, tries again, gives up after 128 tries, and completes the send with `EAGAIN`. So the
//! drain, which should wait for sends, made them fail. Found on Linux 6.18.

use std::os::unix::net;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::UnixDatagram;
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{drain, spawn};
use ebbtide_testkit::{Shape, on_every_shape};

on_every_shape!(
    a_send_in_flight_survives_the_seal_of_its_socket,
    a_send_after_the_seal_waits_for_room,
    a_send_after_the_seal_waits_without_spinning,
);

/// A socket whose sends wait, and its peer.
fn full_socket() -> (Rc<UnixDatagram>, net::UnixDatagram) {
    let (socket, peer) = net::UnixDatagram::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let socket = UnixDatagram::from_std(socket).unwrap();
    while socket.try_send(b"fill").is_ok() {}
    (Rc::new(socket), peer)
}

/// A hundred times as many turns as the kernel needs to give up.
const MANY_TURNS: usize = 100_000;

fn read_all(peer: &net::UnixDatagram) {
    while peer.recv(&mut [0; 64]).is_ok() {}
}

fn a_send_in_flight_survives_the_seal_of_its_socket(shape: Shape) {
    shape.runtime().block_on(async {
        let (socket, peer) = full_socket();
        let sending = spawn(async move { socket.send(b"waits").await });
        // Until the kernel has the send.
        for _ in 0..10 {
            yield_now().await;
        }
        let draining = spawn(drain());
        for _ in 0..MANY_TURNS {
            yield_now().await;
        }
        assert!(!draining.is_finished(), "{}: the drain does not wait for the send", shape.name);
        read_all(&peer);
        assert_eq!(sending.await.unwrap().unwrap(), 5, "{}", shape.name);
        assert_eq!(draining.await.unwrap().unfinished, 0, "{}", shape.name);
    });
}

fn a_send_after_the_seal_waits_for_room(shape: Shape) {
    shape.runtime().block_on(async {
        let (socket, peer) = full_socket();
        socket.drain().unwrap();
        let sending = spawn(async move { socket.send(b"waits").await });
        for _ in 0..MANY_TURNS {
            yield_now().await;
        }
        assert!(!sending.is_finished(), "{}: the queue is full", shape.name);
        read_all(&peer);
        assert_eq!(sending.await.unwrap().unwrap(), 5, "{}", shape.name);
    });
}

/// Fails when space is polled for on the socket itself, which always seems to have some.
fn a_send_after_the_seal_waits_without_spinning(shape: Shape) {
    let runtime = shape.runtime();
    let (socket, peer) = runtime.block_on(async { full_socket() });
    socket.drain().unwrap();
    let sending = runtime.spawn(async move { socket.send(b"waits").await });
    let before = runtime.metrics().enters;
    runtime.block_on(sleep(Duration::from_millis(50)));
    let enters = runtime.metrics().enters - before;
    assert!(enters <= 20, "{}: {enters} enters", shape.name);
    read_all(&peer);
    assert_eq!(runtime.block_on(sending).unwrap().unwrap(), 5, "{}", shape.name);
}
