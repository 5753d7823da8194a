//! Unexpected control messages: from options that were set through the descriptor, credentials, and
//! descriptors. If a socket reserves no space for them, the kernel cuts them off. The datagram is
//! still complete, and a descriptor that was sent is not left open.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use ebbtide::Drain;
use ebbtide::net::{DatagramSocket, UnixAddr};
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::report::assert_all_delivered;
use ebbtide_testkit::socket::{send_with_descriptors, switch_on};
use ebbtide_testkit::{Ledger, Shape, Transport, Watchdog, numbered, on_every_shape};
use socket2::Socket;

on_every_shape!(control_messages_that_find_no_room_harm_no_datagram);

/// Sends numbered datagrams, half of them through a drain.
fn pass<T: Transport>(
    shape: Shape,
    prepare: impl Fn(&DatagramSocket<T>),
    send: impl Fn(&Socket, &[u8]),
) {
    const COUNT: u64 = 60;
    let _watchdog = Watchdog::new("control messages");
    let runtime = shape.runtime();
    let (socket, mut ledger) = runtime.block_on(async {
        let (sender, socket) = T::pair();
        let socket = T::open(socket);
        prepare(&socket);
        let mut ledger = Ledger::default();
        for number in 0..COUNT {
            send(&sender, &numbered(0, number, 12 + number as usize));
            if number < COUNT / 2 {
                let datagram = socket.recv().await.unwrap().expect("not drained");
                assert_eq!(datagram.len() as u64, 12 + number);
                assert!(!datagram.is_truncated());
                ledger.enter(&datagram);
            }
        }
        socket.drain().unwrap();
        (socket, ledger)
    });
    runtime.block_on(async {
        while let Some(datagram) = socket.recv().await.unwrap() {
            assert_eq!(datagram.len() as u64, 12 + ledger.received);
            assert!(!datagram.is_truncated());
            ledger.enter(&datagram);
        }
    });
    assert_all_delivered(&runtime.shutdown(Drain::default()));
    assert_eq!((ledger.received, ledger.holes), (COUNT, 0), "{}", shape.name);
}

fn send(sender: &Socket, payload: &[u8]) {
    assert_eq!(sender.send(payload).unwrap(), payload.len());
}

fn control_messages_that_find_no_room_harm_no_datagram(shape: Shape) {
    let everywhere = [libc::SO_TIMESTAMPNS, libc::SO_RXQ_OVFL];
    pass::<SocketAddr>(
        shape,
        |socket| {
            everywhere.iter().for_each(|option| switch_on(socket, libc::SOL_SOCKET, *option));
            let internet = [libc::IP_PKTINFO, libc::IP_RECVTOS, libc::IP_RECVTTL];
            internet.iter().for_each(|option| switch_on(socket, libc::IPPROTO_IP, *option));
            switch_on(socket, libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR);
        },
        send,
    );
    pass::<UnixAddr>(
        shape,
        |socket| {
            switch_on(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS);
            switch_on(socket, libc::SOL_SOCKET, libc::SO_PASSCRED);
        },
        send,
    );
}

/// Fails when a Unix socket has space for control messages and nobody closes the descriptors in
/// them.
#[test]
fn descriptors_that_a_peer_sends_are_not_left_open() {
    in_a_child(|| {
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let file = File::open("/dev/null").unwrap();
        for shape in Shape::ALL {
            let before = open();
            pass::<UnixAddr>(
                shape,
                |_| {},
                |sender, payload| {
                    send_with_descriptors(sender, payload, &[file.as_raw_fd(); 5]);
                },
            );
            assert_eq!(open(), before, "{}", shape.name);
        }
    });
}
