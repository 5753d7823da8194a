//! Datagrams that were discarded with a socket were not counted.
//!
//! Cause: one peek checked whether datagrams were left. A pending error of the socket (the answer
//! of a closed port) counted as "none". Found by the model of the kernel.

use ebbtide::Drain;
use ebbtide::net::UdpSocket;
use ebbtide_testkit::{Shape, on_every_shape};

on_every_shape!(a_pending_error_does_not_hide_what_a_dropped_socket_leaves);

fn a_pending_error_does_not_hide_what_a_dropped_socket_leaves(shape: Shape) {
    let runtime = shape.builder().buffers(1).build().unwrap();
    runtime.block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.send_to(b"kept", address).unwrap();
        let kept = socket.recv().await.unwrap().unwrap();
        // The only buffer is in use, so the next datagram stays in the kernel, and so does the
        // error.
        peer.send_to(b"left", address).unwrap();
        let closed = peer.local_addr().unwrap();
        drop(peer);
        socket.connect(closed).unwrap();
        socket.send(b"to nobody").await.unwrap();
        drop(socket);
        drop(kept);
    });
    let stats = runtime.shutdown(Drain::default()).stats;
    assert_eq!((stats.delivered, stats.abandoned), (1, 1), "{}: {stats:?}", shape.name);
}
