//! Batches, and segmentation by the kernel (GSO). Datagrams leave once and in order, even if there
//! is no buffer space or no GSO.

use std::io;

use ebbtide::Runtime;
use ebbtide::net::{Transmit, UdpSocket};
use ebbtide::task::yield_now;
use ebbtide_testkit::descriptor::duplicate;
use ebbtide_testkit::fault::{Fault, Manner, with_fault};
use ebbtide_testkit::seccomp::with_refused_if;
use ebbtide_testkit::socket::{left_in_queue, set_option};
use ebbtide_testkit::{Ledger, Shape, numbered, on_every_shape, run};
use futures_util::FutureExt;

use super::{pair, receive, train};

on_every_shape!(
    a_batch_arrives_once_and_in_order,
    a_batch_of_one_is_a_plain_send,
    a_batch_waits_for_room,
    a_transmit_for_whose_end_there_is_no_room_leaves_in_part,
    datagrams_too_long_to_be_cut_leave_one_by_one,
    the_error_of_a_later_datagram_comes_with_the_rest_of_its_batch,
    an_error_in_a_batch_does_not_reach_the_batch_of_another,
    a_destination_that_is_refused_takes_the_help_from_nobody_else,
);

/// Fails when a batch is sent in another order than it was given, or a part of it twice.
fn a_batch_arrives_once_and_in_order(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        let (mut ledger, mut sent) = (Ledger::default(), 0);
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..30 {
            let lengths = [12, 12, 100, 100, 1400];
            let len = |random: &mut fastrand::Rng| lengths[random.usize(0..=4)];
            let payloads: Vec<_> = (0..random.usize(0..=150))
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

/// Fails when a batch of one is planned and sent as several are, which costs a third more, or when
/// it does not wait for buffer space.
fn a_batch_of_one_is_a_plain_send(shape: Shape) {
    let fault = Fault::every(libc::SYS_sendmmsg, 1, Manner::Refuse(libc::EIO));
    let ((), tally) = with_fault(fault, || {
        run(&shape.runtime(), async {
            let (receiver, sender) = pair();
            assert_eq!(sender.send_batch(&[Transmit::new(b"one")]).await.unwrap(), 1);
            let to = Transmit::to(b"two", receiver.local_addr().unwrap()).segment_size(3);
            assert_eq!(sender.try_send_batch(&[to]).unwrap(), 1);
            assert_eq!(receiver.recv().await.unwrap().expect("not drained")[..], *b"one");
            assert_eq!(receiver.recv().await.unwrap().expect("not drained")[..], *b"two");
        });
    });
    assert_eq!(tally.failures, 0);
    let fault = Fault::once(libc::SYS_sendto, 1, Manner::Refuse(libc::EAGAIN));
    let ((), tally) = with_fault(fault, || {
        run(&shape.runtime(), async {
            let (receiver, sender) = pair();
            assert_eq!(sender.send_batch(&[Transmit::new(b"one")]).await.unwrap(), 1);
            assert_eq!(receiver.recv().await.unwrap().expect("not drained")[..], *b"one");
            assert!(receiver.try_recv().is_err(), "it was sent twice");
        });
    });
    assert_eq!(tally.failures, 1);
}

/// Loopback always has space, so every fifth call is made to fail with `EAGAIN`. In three of the
/// batches, this call is in the middle. Fails when a batch that finds no space is abandoned or sent
/// again from the start.
fn a_batch_waits_for_room(shape: Shape) {
    // Each is longer than the previous one, so it is a separate message. One call sends 64.
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
            assert!(receiver.try_recv().is_err(), "a datagram came twice");
        });
    });
    assert_eq!((tally.calls, tally.failures), (5 * CALLS + 3, 3));
}

/// There is no space for the last messages. Fails when what was sent before is sent again.
#[test]
fn a_batch_that_found_no_room_does_not_begin_anew() {
    // Each is longer than the previous one, so it is a separate message. One call sends 64.
    const TRANSMITS: u64 = 70;
    const LEFT: u32 = 6;
    const MESSAGES: u8 = 2;
    with_refused_if(libc::SYS_sendmmsg, MESSAGES, LEFT..=LEFT, libc::EAGAIN, || {
        run(&Runtime::new().unwrap(), async {
            let (receiver, sender) = pair();
            let payloads: Vec<_> =
                (0..TRANSMITS).map(|number| numbered(0, number, 12 + number as usize)).collect();
            let transmits: Vec<_> = payloads.iter().map(|payload| Transmit::new(payload)).collect();
            let mut sending = sender.send_batch(&transmits);
            for _turn in 0..10 {
                assert!((&mut sending).now_or_never().is_none(), "the batch waits for space");
                yield_now().await;
            }
            drop(sending);
            let mut ledger = Ledger::default();
            receive(&receiver, &mut ledger, TRANSMITS - u64::from(LEFT)).await;
            assert_eq!(ledger.holes, 0);
            assert_eq!(left_in_queue(&duplicate(&receiver)), 0);
            assert!(receiver.try_recv().is_err(), "a datagram came twice");
        });
    });
}

/// A transmit that is so long that it takes 65 messages. One call sends 64 of them, and the next
/// call finds no space. As documented, `try_send_batch` does not count the transmit, although most
/// of it was sent, and `send_batch` sends the rest. Fails when a part counts as the whole, or is
/// sent twice.
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
            let error =
                sender.try_send_batch(&[transmit]).expect_err("a part of the transmit is not sent");
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            receive(&receiver, &mut Ledger::default(), 64 * PER_MESSAGE).await;
            assert!(receiver.try_recv().is_err(), "more than one call was sent");
        });
    });
    assert_eq!(tally.failures, 1);
    with_fault(fault(), || {
        run(&shape.runtime(), async {
            let (receiver, sender) = pair();
            // One message is that of the first transmit.
            let transmits = [Transmit::new(b"first"), Transmit::new(&long).segment_size(LEN)];
            assert_eq!(sender.try_send_batch(&transmits).unwrap(), 1);
            assert_eq!(receiver.recv().await.unwrap().expect("not drained")[..], *b"first");
            receive(&receiver, &mut Ledger::default(), 63 * PER_MESSAGE).await;
            assert!(receiver.try_recv().is_err(), "more than one call was sent");
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
            assert!(receiver.try_recv().is_err(), "a datagram came twice");
        });
    });
}

/// Datagrams that are longer than the MTU of the route. The kernel refuses to segment them
/// (`EMSGSIZE` on Linux 6.18, `EINVAL` on older ones), but sends them in fragments. Fails when the
/// sender gets that error.
fn datagrams_too_long_to_be_cut_leave_one_by_one(shape: Shape) {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        return println!("skipped: no IPv6");
    }
    run(&shape.runtime(), async {
        let options = UdpSocket::options().recv_buffer_size(1 << 22);
        let receiver = options.bind("[::1]:0").unwrap();
        let sender = UdpSocket::bind("[::1]:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        // The MTU of loopback is 64 KiB.
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

/// A device that cannot segment returns `EIO`. Here, every call with a single message does. Fails
/// when the sender gets the error, or when the kernel is asked again.
#[test]
fn what_the_kernel_refuses_to_cut_leaves_one_by_one() {
    const MESSAGES: u8 = 2;
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

/// Fails when the error of a datagram in the middle of a batch is lost, or when the datagrams
/// before it are sent again.
fn the_error_of_a_later_datagram_comes_with_the_rest_of_its_batch(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        let payloads = [numbered(0, 0, 12), vec![0; 70_000], numbered(0, 1, 12)];
        let transmits: Vec<_> = payloads.iter().map(|payload| Transmit::new(payload)).collect();
        assert_eq!(sender.send_batch(&transmits).await.unwrap(), 1);
        let error = sender.send_batch(&transmits[1..]).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(sender.send_batch(&transmits[2..]).await.unwrap(), 1);
        let mut ledger = Ledger::default();
        receive(&receiver, &mut ledger, 2).await;
        assert_eq!(ledger.holes, 0);
        assert_eq!(left_in_queue(&duplicate(&receiver)), 0);
    });
}

/// Two callers send batches on one socket. One of them has a datagram that cannot be sent, after
/// others that can. Fails when the other caller gets the error, and its batch is not sent.
fn an_error_in_a_batch_does_not_reach_the_batch_of_another(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        let own = [numbered(0, 0, 12), vec![0; 70_000]];
        let own: Vec<_> = own.iter().map(|payload| Transmit::new(payload)).collect();
        let of_another = [numbered(0, 1, 12), numbered(0, 2, 12)];
        let of_another: Vec<_> = of_another.iter().map(|it| Transmit::new(it)).collect();
        assert_eq!(sender.send_batch(&own).await.unwrap(), 1);
        assert_eq!(sender.send_batch(&of_another).await.unwrap(), 2);
        let last = numbered(0, 3, 12);
        assert_eq!(
            sender.try_send_batch(&own[1..]).unwrap_err().raw_os_error(),
            Some(libc::EMSGSIZE)
        );
        assert_eq!(sender.try_send_batch(&[Transmit::new(&last)]).unwrap(), 1);
        assert_eq!(
            sender.send_batch(&own[1..]).await.unwrap_err().raw_os_error(),
            Some(libc::EMSGSIZE)
        );
        let mut ledger = Ledger::default();
        receive(&receiver, &mut ledger, 4).await;
        assert_eq!(ledger.holes, 0);
    });
}

/// A batch to port 0 is refused with the errno of a kernel that cannot segment (`EINVAL`). Fails
/// when the batches of other callers are sent one by one from then on.
fn a_destination_that_is_refused_takes_the_help_from_nobody_else(shape: Shape) {
    run(&shape.runtime(), async {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (nowhere, peer) = ("127.0.0.1:0".parse().unwrap(), receiver.local_addr().unwrap());
        let payloads: Vec<_> = (0..4).map(|number| numbered(0, number, 100)).collect();
        let refused: Vec<_> = payloads.iter().map(|it| Transmit::to(it, nowhere)).collect();
        let error = sender.send_batch(&refused).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        let transmits: Vec<_> = payloads.iter().map(|it| Transmit::to(it, peer)).collect();
        assert_eq!(sender.send_batch(&transmits).await.unwrap(), 4);
        let train = receiver.recv_train().await.unwrap().expect("not drained");
        assert_eq!(train.count(), 4, "they were sent in one message");
    });
}
