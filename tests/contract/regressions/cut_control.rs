//! Control messages that do not fit.
//!
//! Cause: the kernel cuts off control messages (`MSG_CTRUNC`) if a socket reserves no space for
//! them. Such a datagram was reported as truncated, although its payload was whole. Any peer of a
//! Unix socket could cause that, by sending a descriptor with a datagram. Also, if an option was
//! set through the descriptor of a UDP socket, which `as_fd` allows, its control message took the
//! space of the segment size of a train. The train was then handed out as one datagram.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use ebbtide::net::{UdpSocket, UnixAddr};
use ebbtide_testkit::socket::{send_with, send_with_descriptors, switch_on};
use ebbtide_testkit::{Shape, Transport};

/// Fails when control messages that were cut off count as a cut payload.
#[test]
fn a_datagram_with_a_descriptor_is_not_truncated() {
    for shape in Shape::ALL {
        shape.runtime().block_on(async {
            let (sender, socket) = UnixAddr::pair();
            let socket = UnixAddr::open(socket);
            let file = File::open("/dev/null").unwrap();
            send_with_descriptors(&sender, b"whole", &[file.as_raw_fd()]);
            let datagram = socket.recv().await.unwrap().expect("not drained");
            assert_eq!((&datagram[..], datagram.is_truncated()), (&b"whole"[..], false));
            assert_eq!(socket.stats().truncated, 0);
        });
    }
}

/// A train of ten datagrams of ten bytes.
fn send_train(to: SocketAddr) {
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(to).unwrap();
    let segment = (libc::SOL_UDP, libc::UDP_SEGMENT);
    send_with(&sender.into(), &[7; 100], segment, &10u16.to_ne_bytes()).unwrap();
}

/// Fails when a socket reserves space only for the segment size of a train.
#[test]
fn options_that_are_set_through_the_descriptor_do_not_join_a_train() {
    for shape in Shape::ALL {
        shape.runtime().block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            switch_on(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS);
            send_train(socket.local_addr().unwrap());
            for _ in 0..10 {
                let datagram = socket.recv().await.unwrap().expect("not drained");
                assert_eq!((&datagram[..], datagram.is_truncated()), (&[7; 10][..], false));
            }
        });
    }
}
