//! Offloads: trains that arrive (GRO), datagrams that leave together (GSO, batches, coalescing),
//! and what comes with a datagram.

// UNSAFETY: setsockopt takes a raw pointer.
#![expect(unsafe_code, reason = "argued above")]

#[path = "support/faults.rs"]
mod faults;
#[path = "support/seccomp.rs"]
mod seccomp;
#[macro_use]
mod support;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, SystemTime};

use ebbtide::net::{EcnCodepoint, Transmit, UdpSocket};
use ebbtide::task::yield_now;
use ebbtide::time::timeout;
use ebbtide::{Drain, Runtime};
use faults::{Fault, Manner, with_fault};
use futures_util::FutureExt;
use futures_util::future::join_all;
use seccomp::with_refused_if;
use support::{Ledger, Random, Shape, duplicate, left_in_queue, numbered};

on_every_shape!(
    the_datagrams_of_a_train_arrive_one_by_one,
    a_train_can_be_taken_whole,
    a_train_wakes_every_receiver_that_waits,
    the_drain_takes_trains_apart,
    shutdown_counts_datagrams_and_not_trains,
    an_unread_socket_of_trains_stops_no_other,
    gro_goes_off_without_losing_or_joining_a_datagram,
    gro_goes_off_while_trains_arrive,
    an_error_that_is_pending_when_gro_goes_off_is_told,
    a_message_that_may_be_a_train_for_all_that_is_known_counts_as_truncated,
    a_socket_given_back_has_no_trains,
    a_batch_arrives_once_and_in_order,
    a_batch_waits_for_room,
    a_transmit_for_whose_end_there_is_no_room_leaves_in_part,
    datagrams_too_long_to_be_cut_leave_one_by_one,
    the_error_of_a_later_datagram_comes_with_the_next_batch,
    sends_of_many_tasks_leave_together_and_each_has_its_result,
    a_coalesced_send_that_is_dropped_does_not_take_place,
    a_coalesced_error_is_that_of_one_send,
    nothing_overtakes_what_waits_to_leave,
    what_was_asked_for_comes_with_each_datagram,
    a_datagram_leaves_as_it_was_asked,
);

/// Runs the scenario; one that never ends fails.
fn run<F: Future>(runtime: &Runtime, scenario: F) -> F::Output {
    let patience = Duration::from_secs(60);
    runtime.block_on(async { timeout(patience, scenario).await.expect("it never ends") })
}

/// A receiver, and a sender that is connected to it.
fn pair() -> (UdpSocket, UdpSocket) {
    let options = UdpSocket::options().recv_buffer_size(1 << 22);
    let receiver = options.bind("127.0.0.1:0").unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    (receiver, sender)
}

/// The numbered datagrams from `first` on, each of `len` bytes and the last of `last`, as one train.
fn train(first: u64, count: u64, len: usize, last: usize) -> Vec<u8> {
    let len_of = |number| if number + 1 == first + count { last } else { len };
    (first..first + count).flat_map(|number| numbered(0, number, len_of(number))).collect()
}

async fn receive(socket: &UdpSocket, ledger: &mut Ledger, count: u64) {
    while ledger.received < count {
        ledger.enter(&socket.recv().await.unwrap().expect("not drained"));
    }
}

/// Fails when a train is handed out as one datagram, or in the wrong pieces.
fn the_datagrams_of_a_train_arrive_one_by_one(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        assert!(receiver.gro(), "the default buffers hold a train");
        let (mut ledger, mut sent) = (Ledger::default(), 0);
        for (count, len, last) in
            [(1, 100, 100), (2, 12, 12), (64, 12, 12), (10, 1400, 12), (46, 1400, 1399)]
        {
            let train = train(sent, count, len, last);
            assert_eq!(sender.send_gso(&train, len).await.unwrap(), train.len());
            for number in 0..count {
                let datagram = receiver.recv().await.unwrap().expect("not drained");
                assert_eq!(datagram.len(), if number + 1 == count { last } else { len });
                assert_eq!(datagram.peer(), sender.local_addr().unwrap());
                assert!(!datagram.is_truncated());
                ledger.enter(&datagram);
            }
            sent += count;
        }
        assert_eq!((ledger.received, ledger.holes), (sent, 0));
        let stats = receiver.stats();
        assert_eq!((stats.received, stats.delivered, stats.truncated), (sent, sent, 0));
    });
}

fn a_train_can_be_taken_whole(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        sender.send_gso(&train(0, 20, 100, 40), 100).await.unwrap();
        let first = receiver.recv().await.unwrap().expect("not drained");
        let rest = receiver.recv_train().await.unwrap().expect("not drained");
        assert_eq!((rest.stride(), rest.count(), rest.len()), (100, 19, 18 * 100 + 40));
        assert_eq!(rest.peer(), first.peer());
        let mut ledger = Ledger::default();
        ledger.enter(&first);
        rest.datagrams().for_each(|datagram| ledger.enter(datagram));
        assert_eq!((ledger.received, ledger.holes), (20, 0));
        assert_eq!(receiver.stats().delivered, 20);
        sender.send(b"").await.unwrap();
        let empty = receiver.recv_train().await.unwrap().expect("not drained");
        assert_eq!((empty.stride(), empty.count(), empty.datagrams().count()), (0, 1, 1));
        let nothing = receiver.try_recv_train().unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    });
}

/// Fails when a train wakes one receiver only.
fn a_train_wakes_every_receiver_that_waits(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        let receiver = Rc::new(receiver);
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let receiver = Rc::clone(&receiver);
                ebbtide::spawn(async move { receiver.recv().await.unwrap().map(|it| it.len()) })
            })
            .collect();
        yield_now().await;
        sender.send_gso(&train(0, 5, 100, 100), 100).await.unwrap();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Some(100));
        }
    });
}

/// Fails when the direct reads of the drain do not look for trains.
fn the_drain_takes_trains_apart(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        let mut sent = 0;
        for count in 1..=40 {
            sender.send_gso(&train(sent, count, 100, 12), 100).await.unwrap();
            sent += count;
        }
        receiver.drain().unwrap();
        let mut ledger = Ledger::default();
        while let Some(datagram) = receiver.recv().await.unwrap() {
            ledger.enter(&datagram);
        }
        assert_eq!((ledger.received, ledger.holes), (sent, 0));
    });
}

fn shutdown_counts_datagrams_and_not_trains(shape: Shape) {
    let runtime = shape.runtime();
    let mut sockets = run(&runtime, async {
        let (receiver, sender) = pair();
        for round in 0..30 {
            sender.send_gso(&train(round * 10, 10, 100, 100), 100).await.unwrap();
        }
        (receiver, sender)
    });
    let first = run(&runtime, async { sockets.0.recv().await.unwrap().map(|it| it.len()) });
    assert_eq!(first, Some(100));
    let receiver = &mut sockets.0;
    let report = runtime.stop();
    assert_eq!((report.stats.delivered, report.undelivered), (1, 299), "{report}");
    assert_eq!(receiver.stats().received, 300);
}

/// Fails when a train counts as many buffers as it has datagrams: its socket would pause at once.
fn an_unread_socket_of_trains_stops_no_other(shape: Shape) {
    run(&shape.runtime(), async {
        let (unread, flooder) = pair();
        let (receiver, sender) = pair();
        let mut ledger = Ledger::default();
        for round in 0..50 {
            flooder.send_gso(&train(0, 40, 100, 100), 100).await.unwrap();
            sender.send_gso(&train(round * 3, 3, 100, 50), 100).await.unwrap();
            receive(&receiver, &mut ledger, round * 3 + 3).await;
        }
        assert_eq!((ledger.received, ledger.holes), (150, 0));
        unread.drain().unwrap();
        let mut left = 0;
        while unread.recv().await.unwrap().is_some() {
            left += 1;
        }
        assert_eq!(left, 50 * 40);
    });
}

/// Fails when GRO goes off over a queue that holds trains.
fn gro_goes_off_without_losing_or_joining_a_datagram(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        let (mut ledger, mut sent) = (Ledger::default(), 0);
        let mut random = Random::new(7);
        for round in 0..40 {
            for _ in 0..random.within(0..=20) {
                let count = random.within(1..=20) as u64;
                sender.send_gso(&train(sent, count, 50, 30), 50).await.unwrap();
                sent += count;
            }
            receiver.set_gro(round % 2 == 1).unwrap();
            assert_eq!(receiver.gro(), round % 2 == 1);
            if random.within(0..=1) == 0 {
                receive(&receiver, &mut ledger, sent).await;
            }
        }
        receive(&receiver, &mut ledger, sent).await;
        assert_eq!((ledger.received, ledger.holes), (sent, 0));
    });
}

/// Fails when a train that comes between the last read and the moment that GRO goes off is read as
/// one datagram.
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
        let mut on = true;
        while !sending.is_finished() {
            on = !on;
            receiver.set_gro(on).unwrap();
            while let Ok(datagram) = receiver.try_recv() {
                assert_eq!(datagram.expect("not drained").len(), LEN);
            }
        }
        sending.join().unwrap();
        assert!(receiver.stats().delivered > 0);
    });
}

/// Whoever takes the error from the kernel hands it over: the receive, the read of the queue, or the
/// look into it (which has a test of its own, in `gro.rs`).
fn an_error_that_is_pending_when_gro_goes_off_is_told(shape: Shape) {
    run(&shape.runtime(), async {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        // It listens to somebody else: for us the port is closed, and for others it is taken.
        let closed_to_us = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        closed_to_us.connect("127.0.0.1:9").unwrap();
        receiver.connect(closed_to_us.local_addr().unwrap()).unwrap();
        for on in [false, true, false] {
            receiver.try_send(b"anybody there?").unwrap();
            receiver.set_gro(on).unwrap();
            assert_eq!(receiver.gro(), on);
            let error = receiver.recv().await.expect_err("nobody is there");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
    });
}

/// The kernel is asked, past Ebbtide, for more than there is room for, so that the length of a
/// train might be what is missing. Fails when such a message is taken for a single datagram, by the
/// receive or by the direct reads of the drain.
fn a_message_that_may_be_a_train_for_all_that_is_known_counts_as_truncated(shape: Shape) {
    let runtime = shape.builder().buffers(1).build().unwrap();
    run(&runtime, async {
        let receiver = UdpSocket::bind("[::1]:0").unwrap();
        let sender = UdpSocket::bind("[::1]:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        assert!(receiver.gro());
        set_option(&receiver, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1);
        set_option(&receiver, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, TIMESTAMP_BY_SOFTWARE);
        for option in [
            libc::IPV6_RECVPKTINFO,
            libc::IPV6_2292PKTINFO,
            libc::IPV6_RECVHOPLIMIT,
            libc::IPV6_2292HOPLIMIT,
            libc::IPV6_RECVTCLASS,
            libc::IPV6_RECVORIGDSTADDR,
        ] {
            set_option(&receiver, libc::IPPROTO_IPV6, option, 1);
        }
        sender.send(b"by the receive").await.unwrap();
        let kept = receiver.recv().await.unwrap().expect("not drained");
        assert!(kept.is_truncated(), "{kept:?}");
        // It has the only buffer: what comes now stays in the kernel's queue.
        sender.send(b"by the drain").await.unwrap();
        receiver.drain().unwrap();
        let read = receiver.recv().await.unwrap().expect("it was queued");
        assert!(read.is_truncated(), "{read:?}");
        assert_eq!(receiver.stats().truncated, 2);
    });
}

/// `SOF_TIMESTAMPING_RX_SOFTWARE` and `SOF_TIMESTAMPING_SOFTWARE` of linux/net_tstamp.h.
const TIMESTAMP_BY_SOFTWARE: libc::c_int = 1 << 3 | 1 << 4;

/// Fails when `into_std` leaves GRO on, or turns it off over queued trains.
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
        // Single datagrams, because the kernel cuts trains for a socket that does not want them.
        sender.send_gso(&train(0, 30, 100, 70), 100).await.unwrap();
        let mut ledger = Ledger::default();
        receive(&receiver, &mut ledger, 30).await;
        assert_eq!(ledger.holes, 0);
    });
}

/// Fails when a batch is planned in another order than it was given, or sent in part twice.
fn a_batch_arrives_once_and_in_order(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        let (mut ledger, mut sent) = (Ledger::default(), 0);
        let mut random = Random::new(11);
        for _ in 0..30 {
            let lengths = [12, 12, 100, 100, 1400];
            let len = |random: &mut Random| lengths[random.within(0..=4)];
            let payloads: Vec<_> = (0..random.within(0..=150))
                .map(|index| numbered(0, sent + index as u64, len(&mut random)))
                .collect();
            let transmits: Vec<_> = payloads.iter().map(|payload| Transmit::new(payload)).collect();
            assert_eq!(sender.send_batch(&transmits).await.unwrap(), transmits.len());
            sent += transmits.len() as u64;
            receive(&receiver, &mut ledger, sent).await;
        }
        assert_eq!((ledger.received, ledger.holes), (sent, 0));
    });
}

/// Loopback always has room, so that each fifth call is told that there is none, which falls into
/// the middle of three of the batches. Fails when a batch that finds no room is given up, or begins
/// anew.
fn a_batch_waits_for_room(shape: Shape) {
    // Each is longer than the one before, hence a message of its own; 64 leave in one call.
    const TRANSMITS: u64 = 150;
    const CALLS: u64 = 3;
    let fault = Fault::every(libc::SYS_sendmmsg, 5, Manner::Refuse(libc::EAGAIN));
    let ((), tally) = with_fault(fault, || {
        run(&shape.runtime(), async {
            let (receiver, sender) = pair();
            let mut ledger = Ledger::default();
            for round in 1..=5 {
                let first = ledger.received;
                let payloads: Vec<_> = (0..TRANSMITS)
                    .map(|index| numbered(0, first + index, 12 + index as usize))
                    .collect();
                let transmits: Vec<_> = payloads.iter().map(|it| Transmit::new(it)).collect();
                assert_eq!(sender.send_batch(&transmits).await.unwrap(), transmits.len());
                receive(&receiver, &mut ledger, round * TRANSMITS).await;
            }
            assert_eq!(ledger.holes, 0);
            assert!(receiver.try_recv().is_err(), "something came twice");
        });
    });
    assert_eq!((tally.calls, tally.failures), (5 * CALLS + 3, 3));
}

/// The kernel has no room for the last ones. Fails when what was sent before is sent again.
#[test]
fn a_batch_that_found_no_room_does_not_begin_anew() {
    // Each is longer than the one before, hence a message of its own; 64 leave in one call.
    const TRANSMITS: u64 = 70;
    const LEFT: u32 = 6;
    const MESSAGES: usize = 2;
    with_refused_if(libc::SYS_sendmmsg, MESSAGES, LEFT..=LEFT, libc::EAGAIN, || {
        run(&Runtime::new().unwrap(), async {
            let (receiver, sender) = pair();
            let payloads: Vec<_> =
                (0..TRANSMITS).map(|number| numbered(0, number, 12 + number as usize)).collect();
            let transmits: Vec<_> = payloads.iter().map(|payload| Transmit::new(payload)).collect();
            let mut sending = sender.send_batch(&transmits);
            for _turn in 0..10 {
                assert!((&mut sending).now_or_never().is_none(), "there is no room");
                yield_now().await;
            }
            drop(sending);
            let mut ledger = Ledger::default();
            receive(&receiver, &mut ledger, TRANSMITS - u64::from(LEFT)).await;
            assert_eq!(ledger.holes, 0);
            assert_eq!(left_in_queue(&duplicate(&receiver)), 0);
            assert!(receiver.try_recv().is_err(), "something came twice");
        });
    });
}

/// A transmit so long that it takes 65 messages, of which 64 leave in one call; the next call finds
/// no room. As documented, `try_send_batch` does not count it, though most of it has left, and
/// `send_batch` goes on. Fails when a part counts as the whole, or leaves twice.
fn a_transmit_for_whose_end_there_is_no_room_leaves_in_part(shape: Shape) {
    const LEN: usize = 12;
    const PER_MESSAGE: u64 = 64;
    const ALL: u64 = 65 * PER_MESSAGE;
    let fault = || Fault::once(libc::SYS_sendmmsg, 2, Manner::Refuse(libc::EAGAIN));
    let long = train(0, ALL, LEN, LEN);
    let ((), tally) = with_fault(fault(), || {
        run(&shape.runtime(), async {
            let (receiver, sender) = pair();
            let transmit = Transmit::new(&long).segment_size(LEN);
            let error = sender.try_send_batch(&[transmit]).expect_err("it is not sent whole");
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            receive(&receiver, &mut Ledger::default(), 64 * PER_MESSAGE).await;
            assert!(receiver.try_recv().is_err(), "more has left");
        });
    });
    assert_eq!(tally.failures, 1);
    with_fault(fault(), || {
        run(&shape.runtime(), async {
            let (receiver, sender) = pair();
            // One message is the first transmit's.
            let transmits = [Transmit::new(b"first"), Transmit::new(&long).segment_size(LEN)];
            assert_eq!(sender.try_send_batch(&transmits).unwrap(), 1);
            assert_eq!(receiver.recv().await.unwrap().expect("not drained")[..], *b"first");
            receive(&receiver, &mut Ledger::default(), 63 * PER_MESSAGE).await;
            assert!(receiver.try_recv().is_err(), "more has left");
        });
    });
    with_fault(fault(), || {
        run(&shape.runtime(), async {
            let (receiver, sender) = pair();
            let transmit = Transmit::new(&long).segment_size(LEN);
            assert_eq!(sender.send_batch(&[transmit]).await.unwrap(), 1);
            let mut ledger = Ledger::default();
            receive(&receiver, &mut ledger, ALL).await;
            assert_eq!(ledger.holes, 0);
            assert!(receiver.try_recv().is_err(), "something came twice");
        });
    });
}

/// Longer than the route takes in one packet: the kernel refuses to cut such (`EMSGSIZE` on
/// Linux 6.18, `EINVAL` on older ones), and sends them in fragments. Fails when the refusal is handed to the sender.
fn datagrams_too_long_to_be_cut_leave_one_by_one(shape: Shape) {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        return println!("skipped: IPv6 is not there");
    }
    run(&shape.runtime(), async {
        let options = UdpSocket::options().recv_buffer_size(1 << 22);
        let receiver = options.bind("[::1]:0").unwrap();
        let sender = UdpSocket::bind("[::1]:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        // Loopback would take 64 KiB.
        set_option(&sender, libc::IPPROTO_IPV6, libc::IPV6_MTU, 1280);
        let mut ledger = Ledger::default();
        for round in 1..=3 {
            let first = ledger.received;
            let payloads: Vec<_> = (0..8).map(|index| numbered(0, first + index, 2000)).collect();
            let transmits: Vec<_> = payloads.iter().map(|it| Transmit::new(it)).collect();
            assert_eq!(sender.send_batch(&transmits).await.unwrap(), transmits.len());
            receive(&receiver, &mut ledger, 8 * round).await;
        }
        assert_eq!(ledger.holes, 0);
    });
}

/// As a device says that cannot (`EIO`): here, to any call with a single message. Fails when the
/// refusal is handed to the sender, or when the kernel is asked again.
#[test]
fn what_the_kernel_refuses_to_cut_leaves_one_by_one() {
    const MESSAGES: usize = 2;
    with_refused_if(libc::SYS_sendmmsg, MESSAGES, 1..=1, libc::EIO, || {
        run(&Runtime::new().unwrap(), async {
            let (receiver, sender) = pair();
            let payloads: Vec<_> = (0..9).map(|number| numbered(0, number, 100)).collect();
            let transmits: Vec<_> = payloads.iter().map(|payload| Transmit::new(payload)).collect();
            let mut ledger = Ledger::default();
            for transmits in transmits.chunks(3) {
                assert_eq!(sender.send_batch(transmits).await.unwrap(), 3);
            }
            receive(&receiver, &mut ledger, 9).await;
            assert_eq!(ledger.holes, 0);
        });
    });
}

/// Fails when the error of a datagram in the middle of a batch is forgotten, or those before it are
/// sent again.
fn the_error_of_a_later_datagram_comes_with_the_next_batch(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        let payloads = [numbered(0, 0, 12), vec![0; 70_000], numbered(0, 1, 12)];
        let transmits: Vec<_> = payloads.iter().map(|payload| Transmit::new(payload)).collect();
        assert_eq!(sender.send_batch(&transmits).await.unwrap(), 1);
        let error = sender.send_batch(&transmits[2..]).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(sender.send_batch(&transmits[2..]).await.unwrap(), 1);
        let mut ledger = Ledger::default();
        receive(&receiver, &mut ledger, 2).await;
        assert_eq!(ledger.holes, 0);
        assert_eq!(left_in_queue(&duplicate(&receiver)), 0);
    });
}

/// Fails when coalesced sends leave by themselves (the train), or share a result.
fn sends_of_many_tasks_leave_together_and_each_has_its_result(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        sender.set_coalescing(true);
        let sender = Rc::new(sender);
        for round in 0..20 {
            let tasks: Vec<_> = (0..20)
                .map(|number| {
                    let sender = Rc::clone(&sender);
                    ebbtide::spawn(async move {
                        let len = if number == 19 { 60 } else { 100 };
                        sender.send(&numbered(0, round * 20 + number, len)).await
                    })
                })
                .collect();
            for (number, task) in tasks.into_iter().enumerate() {
                assert_eq!(task.await.unwrap().unwrap(), if number == 19 { 60 } else { 100 });
            }
            let train = receiver.recv_train().await.unwrap().expect("not drained");
            assert_eq!((train.count(), train.stride()), (20, 100), "they left together");
            let mut ledger = Ledger::default();
            train.datagrams().for_each(|datagram| {
                ledger.enter(&numbered(0, support::parse(datagram).1 - round * 20, 12));
            });
            assert_eq!((ledger.received, ledger.holes), (20, 0));
        }
    });
}

/// Fails when a dropped send leaves all the same, or takes the others with it.
fn a_coalesced_send_that_is_dropped_does_not_take_place(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        sender.set_coalescing(true);
        let payloads: Vec<_> = (0..6).map(|number| numbered(0, number, 12)).collect();
        for dropped in 0..6 {
            let mut sends: Vec<_> = payloads.iter().map(|it| sender.send(it)).collect();
            for send in &mut sends {
                assert!(send.now_or_never().is_none(), "it waits for the others");
            }
            drop(sends.remove(dropped));
            for sent in join_all(sends).await {
                assert_eq!(sent.unwrap(), 12);
            }
            let mut numbers = Vec::new();
            for _ in 0..5 {
                let datagram = receiver.recv().await.unwrap().expect("not drained");
                numbers.push(support::parse(&datagram).1);
            }
            let expected: Vec<_> = (0..6).filter(|&number| number != dropped as u64).collect();
            assert_eq!(numbers, expected);
        }
        assert!(receiver.try_recv().is_err());
    });
}

/// The kernel has no room for the last ones, which whoever of them leads sends later. Fails when
/// that one, which did not lead before, is not told.
#[test]
fn coalesced_sends_that_find_no_room_leave_later() {
    // Each is longer than the one before, hence a message of its own; 64 leave in one call.
    const SENDS: usize = 70;
    const LEFT: u32 = 6;
    const MESSAGES: usize = 2;
    with_refused_if(libc::SYS_sendmmsg, MESSAGES, LEFT..=LEFT, libc::EAGAIN, || {
        run(&Runtime::new().unwrap(), async {
            let (receiver, sender) = pair();
            sender.set_coalescing(true);
            let sender = Rc::new(sender);
            let send = |number: usize| {
                let sender = Rc::clone(&sender);
                let payload = numbered(0, number as u64, 12 + number);
                ebbtide::spawn(async move { sender.send(&payload).await.unwrap() })
            };
            let mut sends: Vec<_> = (0..SENDS).map(send).collect();
            for _turn in 0..10 {
                yield_now().await;
            }
            let waiting = sends.iter().filter(|send| !send.is_finished()).count();
            assert_eq!(waiting, LEFT as usize);
            // One more, with which there is room.
            sends.push(send(SENDS));
            for _turn in 0..1_000 {
                yield_now().await;
            }
            assert!(sends.iter().all(|send| send.is_finished()), "nobody leads");
            let mut ledger = Ledger::default();
            receive(&receiver, &mut ledger, SENDS as u64 + 1).await;
            assert_eq!(ledger.holes, 0);
        });
    });
}

/// A peer that is gone is reported once, to the first send after it was found. Fails when every
/// send of a message gets the error, or all that were with it are lost.
fn a_coalesced_error_is_that_of_one_send(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        let peer = receiver.local_addr().unwrap();
        drop(receiver);
        sender.set_coalescing(true);
        assert_eq!(sender.send(b"nobody is there").await.unwrap(), 15);
        // The answer, an ICMP error, waits in the socket before the send returns.
        let receiver = UdpSocket::bind(peer).unwrap();
        let results = join_all((0..5).map(|_| sender.send(b"hello"))).await;
        let failed: Vec<_> = results.iter().map(Result::is_err).collect();
        let received = receiver_count(&receiver).await;
        // Receiving takes the error as well, whoever is first.
        let errors = failed.iter().filter(|&&failed| failed).count();
        assert!(errors <= 1 && (errors == 0 || failed[0]), "{failed:?}");
        assert_eq!(received, 5 - errors);
    });
}

async fn receiver_count(receiver: &UdpSocket) -> usize {
    receiver.drain().unwrap();
    let mut count = 0;
    while receiver.recv().await.unwrap().is_some() {
        count += 1;
    }
    count
}

/// Fails when `try_send` or a batch passes sends that were polled before.
fn nothing_overtakes_what_waits_to_leave(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        sender.set_coalescing(true);
        let payloads: Vec<_> = (0..5).map(|number| numbered(0, number, 12)).collect();
        let mut first = sender.send(&payloads[0]);
        let mut second = sender.send(&payloads[1]);
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        sender.try_send(&payloads[2]).unwrap();
        let mut fourth = sender.send(&payloads[3]);
        assert!((&mut fourth).now_or_never().is_none());
        assert_eq!(sender.send_batch(&[Transmit::new(&payloads[4])]).await.unwrap(), 1);
        for send in [first, second, fourth] {
            assert_eq!(send.await.unwrap(), 12);
        }
        let mut ledger = Ledger::default();
        receive(&receiver, &mut ledger, 5).await;
        assert_eq!(ledger.holes, 0);
    });
}

fn what_was_asked_for_comes_with_each_datagram(shape: Shape) {
    run(&shape.runtime(), async {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let options = UdpSocket::options().recv_ecn(true).recv_dst_ip(true);
            let receiver =
                options.recv_timestamp(true).recv_drop_count(true).bind(address).unwrap();
            let peer = receiver.local_addr().unwrap();
            let sender = UdpSocket::bind(address).unwrap();
            let before = SystemTime::now() - Duration::from_secs(1);
            let marked = Transmit::to(b"hello", peer).ecn(EcnCodepoint::Ce);
            sender.transmit(marked).await.unwrap();
            sender.send_to(b"hello", peer).await.unwrap();
            for ecn in [Some(EcnCodepoint::Ce), None] {
                let datagram = receiver.recv().await.unwrap().expect("not drained");
                assert_eq!(&datagram[..], b"hello");
                assert_eq!((datagram.ecn(), datagram.dst_ip()), (ecn, Some(peer.ip())));
                assert_eq!(datagram.peer(), sender.local_addr().unwrap());
                assert!(datagram.interface_index().is_some_and(|index| index > 0));
                assert!(datagram.timestamp().is_some_and(|time| time > before));
                // The kernel says so only once it has dropped something.
                assert_eq!(datagram.drop_count(), None);
            }
            // Together with a train: its length must not be what does not fit.
            let marked = Transmit::to(&[7; 500], peer).segment_size(100).ecn(EcnCodepoint::Ect1);
            sender.transmit(marked).await.unwrap();
            for _ in 0..5 {
                let datagram = receiver.recv().await.unwrap().expect("not drained");
                assert_eq!(
                    (&datagram[..], datagram.ecn()),
                    (&[7; 100][..], Some(EcnCodepoint::Ect1))
                );
                assert!(!datagram.is_truncated() && datagram.timestamp().is_some());
            }
        }
    });
}

#[test]
fn the_kernels_drops_are_told_with_the_next_datagram() {
    run(&Runtime::new().unwrap(), async {
        let options = UdpSocket::options().recv_drop_count(true).recv_buffer_size(4096);
        let receiver = options.bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        (0..200).for_each(|_| drop(sender.send(&[0; 100])));
        let mut received = 0;
        while receiver.try_recv().is_ok() {
            received += 1;
        }
        sender.send(b"after").unwrap();
        let last = receiver.recv().await.unwrap().expect("not drained");
        assert_eq!(last.drop_count(), Some(200 - received));
        assert_eq!(receiver.stats().dropped_by_kernel, u64::from(200 - received));
    });
}

fn a_datagram_leaves_as_it_was_asked(shape: Shape) {
    run(&shape.runtime(), async {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
        let peer = receiver.local_addr().unwrap();
        for ip in [[127, 0, 0, 7], [127, 1, 2, 3]] {
            let transmit = Transmit::to(b"from there", peer).src_ip(ip.into());
            assert_eq!(sender.transmit(transmit).await.unwrap(), 10);
            let datagram = receiver.recv().await.unwrap().expect("not drained");
            let expected = SocketAddr::from((ip, sender.local_addr().unwrap().port()));
            assert_eq!(datagram.peer(), expected);
        }
    });
}

/// A socket that another library has set to GRO: its trains are taken apart, too.
#[test]
fn a_socket_taken_over_keeps_its_gro() {
    let runtime = Runtime::new().unwrap();
    let delivered = Rc::new(Cell::new(0));
    run(&runtime, async {
        let (receiver, _) = pair();
        let peer = receiver.local_addr().unwrap();
        let (socket, _) = receiver.into_std().unwrap();
        set_gro(&socket);
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

/// What a library that is not Ebbtide does.
fn set_gro(socket: &impl AsRawFd) {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
}

fn set_option(socket: &impl AsRawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) {
    // SAFETY: the pointer names `value` and its length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "option {option}: {}", io::Error::last_os_error());
}
