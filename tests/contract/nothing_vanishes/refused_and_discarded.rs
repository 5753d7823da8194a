//! What comes after the seal is refused, and what is discarded with a socket is counted.

use std::io;
use std::net::SocketAddr;

use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::{Drain, DrainOutcome};
use ebbtide_testkit::report::{assert_balanced, assert_complete};
use ebbtide_testkit::{Shape, on_every_shape};

use crate::backlog::{Backlog, DATAGRAMS, Queue};

on_every_shape!(
    peers_of_a_sealed_unix_socket_get_broken_pipe,
    datagrams_for_a_sealed_udp_socket_are_counted_as_refused,
    what_is_thrown_away_with_a_dropped_socket_is_told,
    the_report_accounts_for_every_datagram,
);

/// Fails when Unix sockets are not sealed, because the sends then succeed.
fn peers_of_a_sealed_unix_socket_get_broken_pipe(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let (peer, sealed) = UnixDatagram::pair().unwrap();
        peer.send(b"before").await.unwrap();
        sealed.drain().unwrap();
        assert_eq!(peer.try_send(b"after").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(peer.send(b"after").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(&sealed.try_recv().unwrap().expect("the datagram was queued")[..], b"before");
        assert!(sealed.try_recv().unwrap().is_none());
        sealed.send(b"a sealed socket can send").await.unwrap();
        assert!(peer.recv().await.unwrap().is_some(), "{}", shape.name);
    });
}

/// Fails when UDP sockets are not sealed, because the datagrams are then queued and not refused.
fn datagrams_for_a_sealed_udp_socket_are_counted_as_refused(shape: Shape) {
    const REFUSED: u64 = 7;
    let runtime = shape.runtime();
    let mut queue = runtime.block_on(async { Queue::<SocketAddr>::open(0) });
    queue.grow(DATAGRAMS as usize);
    queue.receiver.drain().unwrap();
    for _ in 0..REFUSED {
        queue.sender.send(b"late").unwrap();
    }
    queue.take_all();
    queue.check(0);
    assert_eq!(queue.receiver.stats().refused, REFUSED, "{}", shape.name);
    let report = runtime.shutdown(Drain::default());
    assert_complete(&report);
    assert_eq!(report.stats.refused, REFUSED, "{report}");
}

/// The datagrams that were taken from the kernel are counted. For the rest, the report says only
/// that there were some.
fn what_is_thrown_away_with_a_dropped_socket_is_told(shape: Shape) {
    for turns in 0..4 {
        let runtime = shape.runtime();
        runtime.block_on(async {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            for _ in 0..DATAGRAMS {
                sender.try_send(b"for nobody").unwrap();
            }
            for _ in 0..turns {
                yield_now().await;
            }
            drop(receiver);
        });
        let report = runtime.shutdown(Drain::default());
        assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Discarded, 0), "{report}");
        let stats = report.stats;
        assert_eq!(stats.discarded, stats.received, "{}, {turns} turns: {report}", shape.name);
        let all_seen = stats.discarded == DATAGRAMS;
        assert_eq!(stats.abandoned, u64::from(!all_seen), "{}: {report}", shape.name);
    }
}

/// Every datagram is delivered, discarded with its socket, handed over with its socket, or left at
/// the deadline.
fn the_report_accounts_for_every_datagram(shape: Shape) {
    let runtime = shape.runtime();
    let (delivered, handed_over) = runtime.block_on(async {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        let send = async |count| {
            for _ in 0..count {
                sender.send(b"counted").await.unwrap();
            }
        };
        send(5).await;
        for _ in 0..5 {
            receiver.recv().await.unwrap();
        }
        let dropped = UdpSocket::bind("127.0.0.1:0").unwrap();
        dropped.send_to(b"for nobody", dropped.local_addr().unwrap()).await.unwrap();
        while dropped.stats().received == 0 {
            yield_now().await;
        }
        drop(dropped);

        send(DATAGRAMS).await;
        yield_now().await;
        let (socket, taken) = receiver.into_std().unwrap();
        let left = UnixDatagram::from_std(socket).unwrap();
        ebbtide::spawn(async move {
            let _left = left;
            std::future::pending::<()>().await;
        });
        (5, taken.len() as u64)
    });
    let report = runtime.stop();
    let stats = report.stats;
    assert_eq!((stats.delivered, stats.discarded), (delivered, 1), "{}: {report}", shape.name);
    assert_eq!(stats.handed_over, handed_over, "{}: {report}", shape.name);
    assert_eq!(report.undelivered, DATAGRAMS - handed_over, "{}: {report}", shape.name);
    assert_balanced(&report);
}
