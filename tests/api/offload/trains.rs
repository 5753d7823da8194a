//! Trains that arrive. The datagrams that the kernel received as one are handed out separately.

use std::io;
use std::rc::Rc;

use ebbtide::task::yield_now;
use ebbtide_testkit::{Ledger, Shape, on_every_shape, run};

use super::{pair, receive, train};

on_every_shape!(
    the_datagrams_of_a_train_arrive_one_by_one,
    a_train_can_be_taken_whole,
    a_train_wakes_every_receiver_that_waits,
    the_drain_takes_trains_apart,
    shutdown_counts_datagrams_and_not_trains,
    an_unread_socket_of_trains_stops_no_other,
);

/// Fails when a train is handed out as one datagram, or split at the wrong places.
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

/// Fails when a train wakes only one receiver.
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

/// Fails when the direct reads of the drain do not check for trains.
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

/// Fails when a train counts as many buffers as it has datagrams: its socket would then pause at
/// once.
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
