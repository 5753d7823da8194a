//! Switching GRO on and off: while datagrams arrive, if a train does not fit, and when a socket is
//! adopted or returned.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::thread;

use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide::{Drain, Runtime};
use ebbtide_testkit::socket::set_option;
use ebbtide_testkit::{Ledger, Shape, on_every_shape, run};

use super::{pair, receive, train};

on_every_shape!(
    gro_goes_off_without_losing_or_joining_a_datagram,
    gro_goes_off_while_trains_arrive,
    an_error_that_is_pending_when_gro_goes_off_is_told,
    a_message_that_may_be_a_train_for_all_that_is_known_counts_as_truncated,
    a_message_is_judged_by_what_held_when_it_came,
    a_socket_given_back_has_no_trains,
);

/// Fails when GRO is switched off while the queue holds trains.
fn gro_goes_off_without_losing_or_joining_a_datagram(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        let (mut ledger, mut sent) = (Ledger::default(), 0);
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..40 {
            for _ in 0..random.usize(0..=20) {
                let count = random.usize(1..=20) as u64;
                sender.send_gso(&train(sent, count, 50, 30), 50).await.unwrap();
                sent += count;
            }
            receiver.set_gro(round % 2 == 1).unwrap();
            assert_eq!(receiver.gro(), round % 2 == 1);
            if random.usize(0..=1) == 0 {
                receive(&receiver, &mut ledger, sent).await;
            }
        }
        receive(&receiver, &mut ledger, sent).await;
        assert_eq!((ledger.received, ledger.holes), (sent, 0));
    });
}

/// Fails when a train that arrives between the last read and the switch is read as one datagram.
fn gro_goes_off_while_trains_arrive(shape: Shape) {
    const LEN: usize = 50;
    const TRAINS: usize = 5_000;
    run(&shape.runtime(), async {
        let (receiver, _) = pair();
        let peer = receiver.local_addr().unwrap();
        let sending = thread::spawn(move || {
            Runtime::new().unwrap().block_on(async {
                let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
                sender.connect(peer).unwrap();
                let train = train(0, 20, LEN, LEN);
                for _ in 0..TRAINS {
                    sender.send_gso(&train, LEN).await.unwrap();
                }
            });
        });
        let (mut on, mut sent_all) = (true, false);
        // One more round after everything is sent. However slow this thread is, datagrams are
        // queued then.
        while !sent_all {
            sent_all = sending.is_finished();
            on = !on;
            receiver.set_gro(on).unwrap();
            while let Ok(datagram) = receiver.try_recv() {
                assert_eq!(datagram.expect("not drained").len(), LEN);
            }
        }
        sending.join().unwrap();
        if receiver.stats().delivered == 0 {
            // All that is left may wait for its CPU (docs/kernel.md, K-CPU-4).
            assert_eq!(receiver.recv().await.unwrap().expect("not drained").len(), LEN);
        }
    });
}

/// Whatever takes the error from the kernel delivers it: the receive, the read of the queue, or the
/// look into the queue. The last has its own test in `net/src/datagram/receive/gro.rs`.
fn an_error_that_is_pending_when_gro_goes_off_is_told(shape: Shape) {
    run(&shape.runtime(), async {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        // This socket is connected to another peer. So its port is closed for the receiver, and
        // taken for other sockets.
        let closed_to_us = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        closed_to_us.connect("127.0.0.1:9").unwrap();
        receiver.connect(closed_to_us.local_addr().unwrap()).unwrap();
        for on in [false, true, false] {
            receiver.try_send(b"anybody there?").unwrap();
            receiver.set_gro(on).unwrap();
            assert_eq!(receiver.gro(), on);
            let error = receiver.recv().await.expect_err("the port is closed");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
    });
}

/// Makes the kernel add more control messages to each datagram than the buffer has space for. Then
/// the length of a train may be what is missing.
fn ask_for_too_much(receiver: &UdpSocket) {
    set_option(receiver, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1);
    set_option(receiver, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, TIMESTAMP_BY_SOFTWARE);
    for option in [
        libc::IPV6_RECVPKTINFO,
        libc::IPV6_2292PKTINFO,
        libc::IPV6_RECVHOPLIMIT,
        libc::IPV6_2292HOPLIMIT,
        libc::IPV6_RECVTCLASS,
        libc::IPV6_RECVORIGDSTADDR,
    ] {
        set_option(receiver, libc::IPPROTO_IPV6, option, 1);
    }
}

/// Fails when such a message counts as a single datagram, in the receive or in the direct reads of
/// the drain.
fn a_message_that_may_be_a_train_for_all_that_is_known_counts_as_truncated(shape: Shape) {
    let runtime = shape.builder().buffers(1).build().unwrap();
    run(&runtime, async {
        let receiver = UdpSocket::bind("[::1]:0").unwrap();
        let sender = UdpSocket::bind("[::1]:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        assert!(receiver.gro());
        ask_for_too_much(&receiver);
        sender.send(b"by the receive").await.unwrap();
        let kept = receiver.recv().await.unwrap().expect("not drained");
        assert!(kept.is_truncated(), "{kept:?}");
        // It holds the only buffer, so the next datagram stays in the kernel's queue.
        sender.send(b"by the drain").await.unwrap();
        receiver.drain().unwrap();
        let read = receiver.recv().await.unwrap().expect("the datagram was queued");
        assert!(read.is_truncated(), "{read:?}");
        assert_eq!(receiver.stats().truncated, 2);
    });
}

/// Fails when a message that came while trains were possible is judged by the setting at the time
/// when it is taken.
fn a_message_is_judged_by_what_held_when_it_came(shape: Shape) {
    run(&shape.runtime(), async {
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        ask_for_too_much(&socket);
        let address = socket.local_addr().unwrap();
        for gro in [true, false] {
            assert_eq!(socket.gro(), gro);
            let before = socket.stats().received;
            socket.try_send_to(b"one", address).unwrap();
            for _ in 0..1_000 {
                if socket.stats().received > before {
                    break;
                }
                yield_now().await;
            }
            socket.set_gro(!gro).unwrap();
            let datagram = socket.recv().await.unwrap().expect("not drained");
            assert_eq!(datagram.is_truncated(), gro, "{datagram:?}");
        }
    });
}

/// `SOF_TIMESTAMPING_RX_SOFTWARE` and `SOF_TIMESTAMPING_SOFTWARE` of linux/net_tstamp.h.
const TIMESTAMP_BY_SOFTWARE: libc::c_int = 1 << 3 | 1 << 4;

/// Fails when `into_std` leaves GRO on, or switches it off while trains are queued.
fn a_socket_given_back_has_no_trains(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        sender.send_gso(&train(0, 10, 50, 50), 50).await.unwrap();
        let first = receiver.recv().await.unwrap().expect("not drained");
        sender.send_gso(&train(10, 10, 50, 50), 50).await.unwrap();
        let (socket, taken) = receiver.into_std().unwrap();
        sender.send_gso(&train(20, 10, 50, 50), 50).await.unwrap();
        let mut ledger = Ledger::default();
        ledger.enter(&first);
        taken.iter().for_each(|datagram| ledger.enter(datagram));
        let mut memory = [0; 1000];
        while let Ok(len) = socket.recv(&mut memory) {
            ledger.enter(&memory[..len]);
        }
        assert_eq!((ledger.received, ledger.holes), (30, 0));
    });
}

#[test]
fn gro_is_refused_where_a_train_does_not_fit() {
    let runtime = Runtime::builder().buffer_size(2048).build().unwrap();
    run(&runtime, async {
        let (receiver, sender) = pair();
        assert!(!receiver.gro());
        let error = receiver.set_gro(true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("Builder::buffer_size"), "{error}");
        let error = UdpSocket::options().gro(true).bind("127.0.0.1:0").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        // Single datagrams, because the kernel splits trains for a socket without GRO.
        sender.send_gso(&train(0, 30, 100, 70), 100).await.unwrap();
        let mut ledger = Ledger::default();
        receive(&receiver, &mut ledger, 30).await;
        assert_eq!(ledger.holes, 0);
    });
}

/// A socket on which another library has switched GRO on. Its trains are split as well.
#[test]
fn a_socket_taken_over_keeps_its_gro() {
    let runtime = Runtime::new().unwrap();
    let delivered = Rc::new(Cell::new(0));
    run(&runtime, async {
        let (receiver, _) = pair();
        let peer = receiver.local_addr().unwrap();
        let (socket, _) = receiver.into_std().unwrap();
        // What a library other than Ebbtide does.
        set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(peer).unwrap();
        sender.send_gso(&train(0, 9, 100, 100), 100).await.unwrap();
        let receiver = UdpSocket::from_std(socket).unwrap();
        assert!(receiver.gro());
        let delivered = Rc::clone(&delivered);
        ebbtide::spawn(async move {
            while let Some(datagram) = receiver.recv().await.unwrap() {
                assert_eq!(datagram.len(), 100);
                delivered.set(delivered.get() + 1);
            }
        });
    });
    runtime.shutdown(Drain::default());
    assert_eq!(delivered.get(), 9);
}
