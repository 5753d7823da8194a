//! Drains: each ends by itself, and waits for what it has to.

use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::UdpSocket;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome, drain, drain_with};
use futures_util::FutureExt;

use crate::support::Shape;

on_every_shape!(
    a_drain_ends_beside_one_that_is_held,
    a_drain_that_is_forgotten_has_no_other_end_early,
);

/// Hangs when only one of the drains is told.
fn a_drain_ends_beside_one_that_is_held(shape: Shape) {
    shape.runtime().block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut held = drain();
        assert!((&mut held).now_or_never().is_none());
        assert_eq!(drain().await.outcome, DrainOutcome::Complete);
        assert_eq!(held.await.outcome, DrainOutcome::Complete);
        assert!(socket.recv().await.unwrap().is_none());
    });
}

/// A receiver that comes when a timer ends is waited for, also beside a drain whose own deadline has
/// passed, and whose future nobody polls any more. Fails when the second drain ends before.
fn a_drain_that_is_forgotten_has_no_other_end_early(shape: Shape) {
    shape.runtime().block_on(async {
        let mut forgotten = drain_with(Drain::default().deadline(Duration::from_millis(1)));
        // While this task is ready, there is no quiescence.
        assert!((&mut forgotten).now_or_never().is_none());
        std::mem::forget(forgotten);
        sleep(Duration::from_millis(5)).await;
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"for one that comes late", socket.local_addr().unwrap()).unwrap();
        let late = ebbtide::spawn({
            let socket = Rc::clone(&socket);
            async move {
                sleep(Duration::from_millis(50)).await;
                socket.recv().await.unwrap().is_some()
            }
        });
        ebbtide::task::yield_now().await;
        let report = drain().await;
        assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Complete, 0), "{report}");
        assert!(late.await.unwrap());
    });
}
