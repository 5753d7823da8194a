//! Coalescing: the sends of several tasks are sent together, and each has its own result.

use std::rc::Rc;

use ebbtide::Runtime;
use ebbtide::net::{Transmit, UdpSocket};
use ebbtide::task::yield_now;
use ebbtide_testkit::fault::{Fault, Manner, with_fault};
use ebbtide_testkit::seccomp::with_refused_if;
use ebbtide_testkit::{Ledger, Shape, numbered, on_every_shape, parse, run};
use futures_util::FutureExt;
use futures_util::future::join_all;

use super::{pair, receive};

on_every_shape!(
    sends_of_many_tasks_leave_together_and_each_has_its_result,
    a_coalesced_send_that_is_dropped_does_not_take_place,
    a_coalesced_error_is_that_of_one_send,
    nothing_overtakes_what_waits_to_leave,
    coalesced_sends_wait_for_space_by_themselves,
);

/// Fails when coalesced sends are sent separately (the train), or share a result.
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
            assert_eq!((train.count(), train.stride()), (20, 100), "they were sent together");
            let mut ledger = Ledger::default();
            train.datagrams().for_each(|datagram| {
                ledger.enter(&numbered(0, parse(datagram).1 - round * 20, 12));
            });
            assert_eq!((ledger.received, ledger.holes), (20, 0));
        }
    });
}

/// Fails when a dropped send takes place, or when it cancels the others.
fn a_coalesced_send_that_is_dropped_does_not_take_place(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        sender.set_coalescing(true);
        let payloads: Vec<_> = (0..6).map(|number| numbered(0, number, 12)).collect();
        for dropped in 0..6 {
            let mut sends: Vec<_> = payloads.iter().map(|it| sender.send(it)).collect();
            for send in &mut sends {
                assert!(send.now_or_never().is_none(), "the send waits for the others");
            }
            drop(sends.remove(dropped));
            for sent in join_all(sends).await {
                assert_eq!(sent.unwrap(), 12);
            }
            let mut numbers = Vec::new();
            for _ in 0..5 {
                let datagram = receiver.recv().await.unwrap().expect("not drained");
                numbers.push(parse(&datagram).1);
            }
            let expected: Vec<_> = (0..6).filter(|&number| number != dropped as u64).collect();
            assert_eq!(numbers, expected);
        }
        assert!(receiver.try_recv().is_err());
    });
}

/// There is no space for the last sends, and the first of them is not polled. Hangs when they wait
/// for another send, or for that one to be polled.
fn coalesced_sends_wait_for_space_by_themselves(shape: Shape) {
    // Each is longer than the previous one, so it is a separate message. One call sends 64.
    const SENDS: usize = 70;
    let fault = Fault::once(libc::SYS_sendmmsg, 2, Manner::Refuse(libc::EAGAIN));
    let ((), tally) = with_fault(fault, || {
        run(&shape.runtime(), async {
            let (receiver, sender) = pair();
            sender.set_coalescing(true);
            let payloads: Vec<_> =
                (0..SENDS).map(|number| numbered(0, number as u64, 12 + number)).collect();
            let mut sends: Vec<_> = payloads.iter().map(|payload| sender.send(payload)).collect();
            for send in &mut sends {
                assert!(send.now_or_never().is_none(), "the send waits for the others");
            }
            let held = sends.remove(64);
            for (number, sent) in join_all(sends).await.into_iter().enumerate() {
                assert_eq!(sent.unwrap(), 12 + number + usize::from(number >= 64));
            }
            assert_eq!(held.await.unwrap(), 12 + 64);
            let mut ledger = Ledger::default();
            receive(&receiver, &mut ledger, SENDS as u64).await;
            assert_eq!(ledger.holes, 0);
        });
    });
    assert_eq!((tally.calls, tally.failures), (3, 1));
}

/// There is no space for the last sends. Fails when sends that come later do not send them as well.
#[test]
fn coalesced_sends_that_find_no_room_leave_later() {
    // Each is longer than the previous one, so it is a separate message. One call sends 64.
    const SENDS: usize = 70;
    const LEFT: u32 = 6;
    const MESSAGES: u8 = 2;
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
            // One more send, for which there is space.
            sends.push(send(SENDS));
            for _turn in 0..1_000 {
                yield_now().await;
            }
            assert!(sends.iter().all(|send| send.is_finished()), "a send waits for ever");
            let mut ledger = Ledger::default();
            receive(&receiver, &mut ledger, SENDS as u64 + 1).await;
            assert_eq!(ledger.holes, 0);
        });
    });
}

/// The error of a closed peer is reported once, by the next send. Fails when every send of a
/// message gets the error, or when all sends of that message are lost.
fn a_coalesced_error_is_that_of_one_send(shape: Shape) {
    run(&shape.runtime(), async {
        let (receiver, sender) = pair();
        let peer = receiver.local_addr().unwrap();
        drop(receiver);
        sender.set_coalescing(true);
        assert_eq!(sender.send(b"nobody is there").await.unwrap(), 15);
        // The ICMP error is on the socket before the send returns.
        let receiver = UdpSocket::bind(peer).unwrap();
        let results = join_all((0..5).map(|_| sender.send(b"hello"))).await;
        let failed: Vec<_> = results.iter().map(Result::is_err).collect();
        let received = receiver_count(&receiver).await;
        // A receive may take the error first.
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

/// Fails when `try_send` or a batch overtakes sends that were polled before.
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
