//! Sockets, sends and datagrams.

use std::cell::Cell;
use std::future::pending;
use std::net;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::{Drain, spawn};
use ebbtide_testkit::leaks::leaves_nothing;
use futures_util::FutureExt;

use super::small_runtime;

/// Fails unless the port of `address` is free.
fn assert_free(address: net::SocketAddr) {
    drop(net::UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}")));
}

/// A socket in the current runtime, with datagrams in its inbox and in its queue.
async fn socket_with_datagrams() -> (UdpSocket, net::SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let sender = net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"for the inbox", address).unwrap();
    while socket.stats().received == 0 {
        yield_now().await;
    }
    sender.send_to(b"for the queue", address).unwrap();
    (socket, address)
}

#[test]
fn a_socket_dropped_inside_frees_its_address_at_once() {
    leaves_nothing(|| {
        small_runtime().block_on(async {
            let (socket, address) = socket_with_datagrams().await;
            drop(socket);
            assert_free(address);
            let in_task = spawn(async {
                let (_socket, address) = socket_with_datagrams().await;
                address
            });
            assert_free(in_task.await.unwrap());
        });
    });
}

#[test]
fn a_socket_dropped_between_two_block_ons_frees_its_address_at_once() {
    leaves_nothing(|| {
        let runtime = small_runtime();
        for _ in 0..3 {
            let (socket, address) = runtime.block_on(socket_with_datagrams());
            drop(socket);
            assert_free(address);
        }
        assert_eq!(runtime.shutdown(Drain::default()).stats.discarded, 3);
    });
}

#[test]
fn a_socket_dropped_with_its_task_at_the_end_frees_its_address() {
    leaves_nothing(|| {
        let runtime = small_runtime();
        let (socket, address) = runtime.block_on(socket_with_datagrams());
        runtime.spawn(async move {
            pending::<()>().await;
            drop(socket);
        });
        runtime.shutdown(Drain::default().deadline(Duration::ZERO));
        assert_free(address);
    });
}

#[test]
fn a_socket_dropped_after_the_end_leaks_nothing() {
    leaves_nothing(|| {
        let runtime = small_runtime();
        let (socket, address) = runtime.block_on(socket_with_datagrams());
        let report = runtime.shutdown(Drain::default().deadline(Duration::ZERO));
        assert_eq!((report.undelivered, report.stats.received), (2, 2), "{report}");
        assert_free(address);
        assert!(socket.recv().now_or_never().expect("the runtime has ended").unwrap().is_none());
        let to = net::SocketAddr::from(([127, 0, 0, 1], 9));
        let send = socket.send_to(b"late", to).now_or_never().expect("the runtime has ended");
        assert_eq!(send.unwrap_err().kind(), std::io::ErrorKind::NotConnected);
        drop(socket);
    });
}

#[test]
fn a_socket_dropped_while_a_panic_unwinds_block_on_leaks_nothing() {
    leaves_nothing(|| {
        let runtime = small_runtime();
        let bound = Cell::new(None);
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                let (_socket, address) = socket_with_datagrams().await;
                bound.set(Some(address));
                panic!("on purpose");
            })
        }));
        assert!(unwound.is_err());
        assert_free(bound.get().expect("the socket was bound"));
        runtime.block_on(async { drop(socket_with_datagrams().await) });
        drop(runtime);
    });
}

/// Unwinding drains as well.
#[test]
fn a_runtime_dropped_while_a_panic_unwinds_delivers_what_was_queued() {
    leaves_nothing(|| {
        let received = Rc::new(Cell::new(0));
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let runtime = small_runtime();
            let (socket, _) = runtime.block_on(socket_with_datagrams());
            let received = Rc::clone(&received);
            runtime.spawn(async move {
                while socket.recv().await.unwrap().is_some() {
                    received.set(received.get() + 1);
                }
            });
            runtime.block_on(async { panic!("on purpose") })
        }));
        assert!(unwound.is_err());
        assert_eq!(received.get(), 2);
    });
}

#[test]
fn a_send_that_waits_for_room_outlives_its_socket_and_its_runtime() {
    leaves_nothing(|| {
        let runtime = small_runtime();
        let (sender, full) = runtime.block_on(async {
            let (sender, full) = std::os::unix::net::UnixDatagram::pair().unwrap();
            (UnixDatagram::from_std(sender).unwrap(), full)
        });
        while sender.try_send(b"fill").is_ok() {}
        runtime.block_on(async {
            let mut waiting = sender.send(b"waits");
            assert!((&mut waiting).now_or_never().is_none());
            yield_now().await;
        });
        runtime.spawn(async move { sender.send(b"waits as well").await });
        runtime.block_on(yield_now());
        let report = runtime.shutdown(Drain::default().deadline(Duration::from_millis(10)));
        assert_eq!((report.unfinished, report.tasks_dropped), (1, 1), "{report}");
        drop(full);
    });
}

#[test]
fn a_datagram_outlives_its_socket_and_its_runtime() {
    leaves_nothing(|| {
        let runtime = small_runtime();
        let (first, second, sender) = runtime.block_on(async {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            let mut received = Vec::new();
            for payload in [&b"first"[..], b"second"] {
                sender.send(payload).await.unwrap();
                received.push(receiver.recv().await.unwrap().expect("not drained"));
            }
            let second = received.pop().expect("two were received");
            (received.pop().expect("two were received"), second, sender)
        });
        drop(sender);
        drop(runtime);
        assert_eq!(&first[..], b"first");
        drop(first);
        assert_eq!(&second[..], b"second");
        drop(second);
    });
}
