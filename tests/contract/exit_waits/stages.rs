//! The order in which sockets are sealed.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::{Exit, UdpSocket, UnixDatagram};
use ebbtide::time::timeout;
use ebbtide::{Drain, DrainOutcome, hold_exit, spawn};
use ebbtide_testkit::{Shape, on_every_shape, patient};

use super::work::LONG;
use crate::queued::{send, socket_with};

on_every_shape!(
    a_relay_between_two_sockets_loses_nothing_where_its_end_is_sealed_last,
    a_chain_of_relays_is_sealed_in_the_order_of_its_stages,
    a_unix_relay_loses_nothing_where_its_end_is_sealed_last,
    a_forwarder_gets_its_answers_while_its_queries_hold_the_exit_open,
    at_the_deadline_all_stages_are_sealed,
    what_an_unsealed_socket_brings_does_not_hold_up_its_stage,
    a_task_that_waits_for_a_later_stage_is_not_waited_for_in_an_earlier_one,
    a_forwarder_may_open_sockets_for_its_last_queries,
    a_program_that_opens_its_socket_again_and_again_ends,
    a_send_to_a_socket_that_has_no_buffers_does_not_hold_up_the_stage_before,
    a_forwarder_that_waits_for_each_answer_gets_the_last_one,
    a_socket_that_is_gone_before_its_stage_is_not_sealed,
);

const COUNT: usize = 100;

/// Receives on `from` until the end, and sends everything on to `to`.
fn spawn_relay(from: UdpSocket, to: std::net::SocketAddr) {
    spawn(async move {
        while let Some(datagram) = from.recv().await.unwrap() {
            from.send_to(&datagram, to).await.unwrap();
        }
    });
}

fn spawn_counter(socket: UdpSocket, count: &Rc<Cell<usize>>) {
    let count = Rc::clone(count);
    spawn(async move {
        while socket.recv().await.unwrap().is_some() {
            count.set(count.get() + 1);
        }
    });
}

/// Fails when all sockets are sealed at once.
fn a_relay_between_two_sockets_loses_nothing_where_its_end_is_sealed_last(shape: Shape) {
    let runtime = shape.runtime();
    let handled = Rc::new(Cell::new(0));
    runtime.block_on(async {
        let first = UdpSocket::bind("127.0.0.1:0").unwrap();
        let last = UdpSocket::options().exit(Exit::SealLast).bind("127.0.0.1:0").unwrap();
        send(COUNT, first.local_addr().unwrap());
        spawn_relay(first, last.local_addr().unwrap());
        spawn_counter(last, &handled);
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, handled.get()), (DrainOutcome::Complete, COUNT), "{report}");
    assert_eq!((report.sockets, report.sealed_later, report.stats.refused), (2, 1, 0), "{report}");
}

fn a_chain_of_relays_is_sealed_in_the_order_of_its_stages(shape: Shape) {
    let runtime = shape.runtime();
    let handled = Rc::new(Cell::new(0));
    runtime.block_on(async {
        let bind = |exit| UdpSocket::options().exit(exit).bind("127.0.0.1:0").unwrap();
        // Not made in the order of the stages.
        let third = bind(Exit::SealInStage(2));
        let first = bind(Exit::Seal);
        let last = bind(Exit::SealLast);
        let second = bind(Exit::SealInStage(1));
        send(COUNT, first.local_addr().unwrap());
        spawn_relay(first, second.local_addr().unwrap());
        spawn_relay(second, third.local_addr().unwrap());
        spawn_relay(third, last.local_addr().unwrap());
        spawn_counter(last, &handled);
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, handled.get()), (DrainOutcome::Complete, COUNT), "{report}");
    assert_eq!((report.sockets, report.sealed_later), (4, 3), "{report}");
}

/// A send to a sealed Unix socket is an error, at which the relay of this test panics.
fn a_unix_relay_loses_nothing_where_its_end_is_sealed_last(shape: Shape) {
    let runtime = shape.runtime();
    let handled = Rc::new(Cell::new(0));
    runtime.block_on(async {
        let (outside, first) = UnixDatagram::pair().unwrap();
        let (inside, last) = UnixDatagram::pair().unwrap();
        last.set_exit(Exit::SealLast).unwrap();
        // The queue of a pair is limited only by the send buffer.
        for _ in 0..COUNT {
            outside.send(b"to be relayed").await.unwrap();
        }
        spawn(async move {
            let _outside = outside;
            while let Some(datagram) = first.recv().await.unwrap() {
                inside.send(&datagram).await.expect("the end is not sealed yet");
            }
        });
        let handled = Rc::clone(&handled);
        spawn(async move {
            while last.recv().await.unwrap().is_some() {
                handled.set(handled.get() + 1);
            }
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, handled.get()), (DrainOutcome::Complete, COUNT), "{report}");
}

/// A resolver that asks an upstream server, on another thread, for each query.
fn a_forwarder_gets_its_answers_while_its_queries_hold_the_exit_open(shape: Shape) {
    let upstream = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to_upstream = upstream.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let mut memory = [0; 8];
        loop {
            let (len, from) = upstream.recv_from(&mut memory).unwrap();
            if len == 0 {
                return;
            }
            upstream.send_to(&memory[..len], from).unwrap();
        }
    });
    let runtime = shape.runtime();
    let answered = Rc::new(Cell::new(0));
    runtime.block_on(async {
        let queries = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to_us = queries.local_addr().unwrap();
        let answered = Rc::clone(&answered);
        spawn(async move {
            while let Some(query) = queries.recv().await.unwrap() {
                let hold = hold_exit();
                // Copied, because a pool that is full of queries would have no buffer for an
                // answer.
                let query = query.to_vec();
                let answered = Rc::clone(&answered);
                spawn(async move {
                    let upstream =
                        UdpSocket::options().exit(Exit::SealLast).bind("127.0.0.1:0").unwrap();
                    upstream.send_to(&query, to_upstream).await.unwrap();
                    let answer = timeout(Duration::from_secs(3_600), upstream.recv()).await;
                    if answer.unwrap().unwrap().is_some() {
                        answered.set(answered.get() + 1);
                    }
                    drop(hold);
                });
            }
        });
        send(COUNT, to_us);
        ebbtide::task::yield_now().await;
        let report = ebbtide::drain_with(patient()).await;
        assert_eq!(report.outcome, DrainOutcome::Complete, "{report}");
    });
    drop(runtime);
    assert_eq!(answered.get(), COUNT);
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[], to_upstream).unwrap();
    answering.join().unwrap();
}

/// Fails when a drain without time left forgets the later stages, whose sockets would then not be
/// sealed.
fn at_the_deadline_all_stages_are_sealed(shape: Shape) {
    let runtime = shape.runtime();
    let (sockets, hold) = runtime.block_on(async {
        let bind = |exit| UdpSocket::options().exit(exit).bind("127.0.0.1:0").unwrap();
        let sockets = [Exit::Seal, Exit::SealInStage(1), Exit::SealLast].map(bind);
        (sockets, hold_exit())
    });
    let policy = Drain::default().deadline(Duration::from_millis(1));
    let report = runtime.block_on(ebbtide::drain_with(policy));
    assert_eq!(
        (report.outcome, report.sealed_later),
        (DrainOutcome::DeadlinePassed, 2),
        "{report}"
    );
    for socket in &sockets {
        send(1, socket.local_addr().unwrap());
        assert_eq!(socket.stats().refused, 1, "{report}");
    }
    drop(hold);
}

/// A client that only sends got a datagram that it does not want, so its stage is uncertain. Fails
/// when every datagram for the other socket restarts the wait.
fn what_an_unsealed_socket_brings_does_not_hold_up_its_stage(shape: Shape) {
    let runtime = shape.runtime();
    let address = runtime.block_on(async {
        let last = UdpSocket::options().exit(Exit::SealLast).bind("127.0.0.1:0").unwrap();
        let address = last.local_addr().unwrap();
        spawn(async move { while last.recv().await.unwrap().is_some() {} });
        let client = socket_with(1);
        spawn(async move {
            loop {
                let _ = client.send_to(b"metric", "127.0.0.1:9").await;
                ebbtide::time::sleep(Duration::from_millis(5)).await;
            }
        });
        ebbtide::time::sleep(Duration::from_millis(1)).await;
        address
    });
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let sender = std::thread::spawn(move || {
        while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) =
            stopped.recv_timeout(Duration::from_millis(10))
        {
            send(1, address);
        }
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Unclaimed, 1), "{report}");
    drop(stop);
    sender.join().unwrap();
}

/// The task got a datagram of the first socket, and then receives from the second. Fails when it is
/// expected at the first.
fn a_task_that_waits_for_a_later_stage_is_not_waited_for_in_an_earlier_one(shape: Shape) {
    let runtime = shape.runtime();
    let count = Rc::new(Cell::new(0));
    runtime.block_on(async {
        let first = socket_with(1);
        let last = UdpSocket::options().exit(Exit::SealLast).bind("127.0.0.1:0").unwrap();
        send(3, last.local_addr().unwrap());
        let count = Rc::clone(&count);
        spawn(async move {
            first.recv().await.unwrap().unwrap();
            while last.recv().await.unwrap().is_some() {
                count.set(count.get() + 1);
            }
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, count.get()), (DrainOutcome::Complete, 3), "{report}");
}

/// One socket for each query, as resolvers do. Fails when sockets are refused as soon as the exit
/// has begun.
fn a_forwarder_may_open_sockets_for_its_last_queries(shape: Shape) {
    const QUERIES: usize = 10;
    let upstream = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    let upstream = std::thread::spawn(move || {
        for _ in 0..QUERIES {
            let (len, peer) = upstream.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(len, 1);
            upstream.send_to(b"answer", peer).unwrap();
        }
    });
    let answered = Rc::new(Cell::new(0));
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = socket_with(QUERIES);
        let answered = Rc::clone(&answered);
        spawn(async move {
            while let Some(query) = socket.recv().await.unwrap() {
                let (hold, answered) = (hold_exit(), Rc::clone(&answered));
                // Copied, because a pool may have fewer buffers than there are queries in progress.
                let query = query.to_vec();
                spawn(async move {
                    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                    client.send_to(&query, address).await.unwrap();
                    assert_eq!(client.recv().await.unwrap().unwrap()[..], *b"answer");
                    answered.set(answered.get() + 1);
                    drop(hold);
                });
            }
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, answered.get()), (DrainOutcome::Complete, QUERIES), "{report}");
    upstream.join().unwrap();
}

/// Fails when a socket can be opened that is not drained, or when new sockets are drained for ever.
fn a_program_that_opens_its_socket_again_and_again_ends(shape: Shape) {
    let runtime = shape.runtime();
    let refusal = Rc::new(Cell::new(None));
    runtime.block_on(async {
        let refused = Rc::clone(&refusal);
        spawn(async move {
            loop {
                let socket = match UdpSocket::bind("127.0.0.1:0") {
                    Ok(socket) => socket,
                    Err(error) => return refused.set(Some(error)),
                };
                assert!(socket.recv().await.unwrap().is_none());
            }
        });
        ebbtide::task::yield_now().await;
        ebbtide::task::yield_now().await;
    });
    let report = runtime.shutdown(patient());
    assert_eq!(report.outcome, DrainOutcome::Complete, "{report}");
    assert_eq!((report.sockets, report.sealed_later), (2, 1), "{report}");
    let refusal = refusal.take().expect("no socket can be opened after the last stage");
    assert!(refusal.to_string().contains("shutting down"), "{refusal}");
}

/// The program holds as many datagrams as the pool has buffers. So the last socket gets no buffer,
/// and a send to it waits for space. Fails when the stage before waits for the send, which is
/// refused in the end.
fn a_send_to_a_socket_that_has_no_buffers_does_not_hold_up_the_stage_before(shape: Shape) {
    const BUFFERS: usize = 8;
    let runtime = shape.builder().buffers(BUFFERS).build().unwrap();
    let received = Rc::new(Cell::new(0));
    let (sent, kept) = runtime.block_on(async {
        let socket = socket_with(BUFFERS);
        let mut held = Vec::new();
        while held.len() < BUFFERS {
            held.push(socket.recv().await.unwrap().unwrap());
        }
        let (sender, last) = UnixDatagram::pair().unwrap();
        last.set_exit(Exit::SealLast).unwrap();
        let mut sent = 0;
        while sender.try_send(b"fills the queue").is_ok() {
            sent += 1;
        }
        spawn(async move { sender.send(b"waits for room").await.unwrap_err() });
        let received = Rc::clone(&received);
        spawn(async move {
            while last.recv().await.unwrap().is_some() {
                received.set(received.get() + 1);
            }
        });
        (sent, (socket, held))
    });
    let report = runtime.shutdown(patient());
    assert_eq!(received.get(), sent, "{}: {report}", shape.name);
    drop(kept);
}

/// One query after the other, without a hold. Each answer takes longer than the uncertain wait.
/// Fails when a task that waits at another socket is not expected.
fn a_forwarder_that_waits_for_each_answer_gets_the_last_one(shape: Shape) {
    const QUERIES: usize = 2;
    let upstream = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    let upstream = std::thread::spawn(move || {
        for _ in 0..QUERIES {
            let (_, peer) = upstream.recv_from(&mut [0; 8]).unwrap();
            std::thread::sleep(LONG);
            upstream.send_to(b"answer", peer).unwrap();
        }
    });
    let answered = Rc::new(Cell::new(0));
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = socket_with(QUERIES);
        let client = UdpSocket::options().exit(Exit::SealLast).bind("127.0.0.1:0").unwrap();
        let answered = Rc::clone(&answered);
        spawn(async move {
            while let Some(query) = socket.recv().await.unwrap() {
                client.send_to(&query, address).await.unwrap();
                if client.recv().await.unwrap().is_some() {
                    answered.set(answered.get() + 1);
                }
            }
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, answered.get()), (DrainOutcome::Complete, QUERIES), "{report}");
    upstream.join().unwrap();
}

/// The socket is dropped, or returned to std. Fails when a stage seals what was open when the drain
/// began: a descriptor that now belongs to something else, or a socket of the program.
fn a_socket_that_is_gone_before_its_stage_is_not_sealed(shape: Shape) {
    let runtime = shape.runtime();
    let given_back = Rc::new(Cell::new(None));
    runtime.block_on(async {
        let first = socket_with(1);
        let last = || UdpSocket::options().exit(Exit::SealLast).bind("127.0.0.1:0").unwrap();
        let (dropped, kept) = (last(), last());
        let given_back = Rc::clone(&given_back);
        spawn(async move {
            while first.recv().await.unwrap().is_some() {}
            drop(dropped);
            given_back.set(Some(kept.into_std().unwrap().0));
        });
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.unsealed), (DrainOutcome::Complete, 0), "{report}");
    let socket = given_back.take().expect("the socket was returned");
    send(1, socket.local_addr().unwrap());
    socket.set_nonblocking(false).unwrap();
    assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1, "the socket receives");
}
