//! Timers, and how the clock affects them.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ebbtide::net::UnixDatagram;
use ebbtide::spawn;
use ebbtide::time::{sleep_until, timeout};
use futures_util::future::join_all;

use super::run;

/// Those that had to wait: on a slow machine, some deadlines have passed before they are first
/// polled. However slow it is, some of later deadlines have not.
#[test]
fn sleeps_end_in_the_order_of_their_deadlines() {
    let (mut waited, mut scale) = (0, 1);
    while waited < 8 {
        let order = ends_of_sleeps(scale);
        assert!(order.is_sorted(), "{order:?}");
        waited += order.len();
        scale *= 2;
    }
}

/// The sleeps that had to wait, in the order in which they ended.
fn ends_of_sleeps(scale: u64) -> Vec<u64> {
    run(async {
        let start = Instant::now();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = [7u64, 3, 11, 1, 5, 9, 2, 0, 40, 20]
            .map(|ticks| {
                let order = Rc::clone(&order);
                spawn(async move {
                    let deadline = start + Duration::from_millis(ticks * scale);
                    let (mut sleep, mut waits) = (pin!(sleep_until(deadline)), false);
                    poll_fn(|cx| {
                        let polled = sleep.as_mut().poll(cx);
                        waits |= polled.is_pending();
                        polled
                    })
                    .await;
                    assert!(Instant::now() >= deadline, "early");
                    if waits {
                        order.borrow_mut().push(ticks);
                    }
                })
            })
            .into();
        join_all(tasks).await.into_iter().for_each(|ended| ended.unwrap());
        order.take()
    })
}

#[test]
fn a_timeout_around_recv_loses_nothing() {
    run(async {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        for number in 0..100u8 {
            assert!(timeout(Duration::from_millis(1), receiver.recv()).await.is_err());
            sender.send(&[number]).await.unwrap();
            let datagram = timeout(Duration::from_secs(600), receiver.recv()).await;
            assert_eq!(datagram.unwrap().unwrap().expect("not drained")[..], [number]);
        }
        assert_eq!(receiver.stats().delivered, 100);
    });
}
