//! Waits that did not wait, or did not end.
//!
//! Causes, in the order of the tests. A task that had used up its budget ran again in the same
//! turn. A socket was polled for space, but the poll reports something else. A poll that found
//! nothing was charged to the budget. The exit waited for a receiver that never comes back, and did
//! not wait for a task that had just been woken. A descriptor lived as long as a wait whose future
//! was dropped.

use std::time::Duration;

use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::{sleep, timeout};
use ebbtide::{Drain, DrainOutcome, Runtime};
use ebbtide_testkit::{Shape, on_every_shape, unique_name};
use futures_util::FutureExt;
use futures_util::future::select_all;

on_every_shape!(
    a_spawned_writer_lets_the_counter_run,
    a_server_waits_for_room_towards_a_client_connected_to_it,
    a_send_whose_own_buffer_is_full_sleeps,
    a_sealed_socket_that_was_taken_back_sleeps_while_it_waits_for_room,
    a_select_over_many_sockets_starves_none,
    an_idle_socket_of_a_pool_does_not_hold_the_exit,
    the_exit_waits_for_the_task_that_awaits_a_blocking_call,
    an_address_is_free_although_a_dropped_send_waited,
);

fn a_spawned_writer_lets_the_counter_run(shape: Shape) {
    const SENT: u64 = 20_000;
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        ebbtide::spawn(async move { while socket.recv().await.unwrap().is_some() {} });
        let writing = ebbtide::spawn(async move {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..SENT {
                socket.send_to(b"hello", address).await.unwrap();
            }
        });
        writing.await.unwrap();
    });
    let stats = runtime.shutdown(Drain::default()).stats;
    // A pool of four holds less than a task sends in one poll.
    let dropped = if shape.name == Shape::TINY.name { stats.dropped_by_kernel } else { 0 };
    assert_eq!(stats.delivered + dropped, SENT, "{}: {stats:?}", shape.name);
}

/// The client receives only from its peer, so nobody else can wait for space in its queue.
fn a_server_waits_for_room_towards_a_client_connected_to_it(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let (server_name, client_name) = (unique_name("server"), unique_name("client"));
        let server = UnixDatagram::bind_addr(&server_name).unwrap();
        let client = std::os::unix::net::UnixDatagram::bind_addr(&client_name).unwrap();
        client.connect_addr(&server_name).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut answered = 0;
        loop {
            let mut send = server.send_to_addr(b"answer", &client_name);
            match (&mut send).now_or_never() {
                Some(sent) => answered += sent.map(|_| 1).unwrap(),
                None => {
                    while client.recv(&mut [0; 64]).is_ok() {}
                    send.await.unwrap();
                    return assert!(answered > 0);
                }
            }
            yield_now().await;
        }
    });
}

/// How many turns the runtime makes while it waits for nothing.
fn turns_while_waiting(runtime: &Runtime, waiting: impl Future) -> u64 {
    let before = runtime.metrics().turns;
    runtime.block_on(async {
        let waited = timeout(Duration::from_millis(50), waiting).await;
        assert!(waited.is_err(), "the send does not wait");
    });
    runtime.metrics().turns - before
}

fn a_send_whose_own_buffer_is_full_sleeps(shape: Shape) {
    let runtime = shape.runtime();
    let name = unique_name("peer");
    let _peer = std::os::unix::net::UnixDatagram::bind_addr(&name).unwrap();
    let socket = runtime.block_on(async { UnixDatagram::unbound().unwrap() });
    let payload = vec![0; 60_000];
    let turns = turns_while_waiting(&runtime, async {
        loop {
            socket.send_to_addr(&payload, &name).await.unwrap();
        }
    });
    assert!(turns < 50, "{}: {turns} turns", shape.name);
}

fn a_sealed_socket_that_was_taken_back_sleeps_while_it_waits_for_room(shape: Shape) {
    let runtime = shape.runtime();
    let (socket, _peer) = runtime.block_on(async {
        let (socket, peer) = UnixDatagram::pair().unwrap();
        socket.drain().unwrap();
        let (socket, _taken) = socket.into_std().unwrap();
        (UnixDatagram::from_std(socket).unwrap(), peer.into_std().unwrap())
    });
    while socket.try_send(b"fill").is_ok() {}
    let turns = turns_while_waiting(&runtime, async { socket.send(b"no room").await.unwrap() });
    assert!(turns < 50, "{}: {turns} turns", shape.name);
}

fn a_select_over_many_sockets_starves_none(shape: Shape) {
    let runtime = shape.builder().operations_per_poll(8).build().unwrap();
    runtime.block_on(async {
        let bind = |_| UdpSocket::bind("127.0.0.1:0").unwrap();
        let sockets: Vec<_> = (0..50).map(bind).collect();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (index, socket) in sockets.iter().enumerate().rev() {
            sender.send_to(b"x", socket.local_addr().unwrap()).await.unwrap();
            let received = timeout(
                Duration::from_secs(60),
                select_all(sockets.iter().map(|socket| socket.recv())),
            );
            let (_, which, _) = received.await.expect("the last sockets starve");
            assert_eq!(which, index, "{}", shape.name);
        }
    });
}

fn an_idle_socket_of_a_pool_does_not_hold_the_exit(shape: Shape) {
    let runtime = shape.runtime();
    let _pooled = runtime.block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"answer", socket.local_addr().unwrap()).await.unwrap();
        socket.drain().unwrap();
        // Everything that was expected. Nobody comes back for the end.
        socket.recv().await.unwrap().expect("a datagram is queued");
        socket
    });
    let report = runtime.shutdown(Drain::default());
    assert_eq!(report.outcome, DrainOutcome::Complete, "{}: {report}", shape.name);
    assert!(
        report.elapsed < Duration::from_secs(10),
        "the exit waited until its deadline: {report}"
    );
}

fn the_exit_waits_for_the_task_that_awaits_a_blocking_call(shape: Shape) {
    for _ in 0..50 {
        let runtime = shape.runtime();
        let seen = std::rc::Rc::new(std::cell::Cell::new(false));
        runtime.block_on(async {
            let seen = seen.clone();
            ebbtide::spawn(async move {
                ebbtide::spawn_blocking(|| ()).await.unwrap();
                seen.set(true);
            });
            yield_now().await;
        });
        runtime.shutdown(Drain::default());
        assert!(seen.get(), "{}: the result was not taken", shape.name);
    }
}

fn an_address_is_free_although_a_dropped_send_waited(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let (name, peer_name) = (unique_name("own"), unique_name("peer"));
        let _peer = std::os::unix::net::UnixDatagram::bind_addr(&peer_name).unwrap();
        let socket = UnixDatagram::bind_addr(&name).unwrap();
        socket.connect_addr(&peer_name).unwrap();
        while socket.try_send(b"fill").is_ok() {}
        {
            let mut send = socket.send(b"no room");
            assert!((&mut send).now_or_never().is_none());
            sleep(Duration::from_millis(1)).await;
            socket.drain().unwrap();
        }
        drop(socket);
        UnixDatagram::bind_addr(&name).expect("the address is free");
    });
}
