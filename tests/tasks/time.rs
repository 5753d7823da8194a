//! Timers, and what the clock does to them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ebbtide::net::UnixDatagram;
use ebbtide::spawn;
use ebbtide::time::{sleep_until, timeout};
use futures_util::future::join_all;

use super::run;

#[test]
fn sleeps_end_in_the_order_of_their_deadlines() {
    let order = run(async {
        let start = Instant::now();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = [7u64, 3, 11, 1, 5, 9, 2, 0, 40, 20]
            .map(|ms| {
                let order = Rc::clone(&order);
                spawn(async move {
                    let deadline = start + Duration::from_millis(ms);
                    sleep_until(deadline).await;
                    assert!(Instant::now() >= deadline, "early");
                    order.borrow_mut().push(ms);
                })
            })
            .into();
        join_all(tasks).await.into_iter().for_each(|ended| ended.unwrap());
        order.take()
    });
    assert!(order.is_sorted(), "{order:?}");
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
