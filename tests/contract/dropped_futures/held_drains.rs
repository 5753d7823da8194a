//! Drains. Each ends independently, and waits for what it has to.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome, drain, drain_with};
use ebbtide_testkit::{Shape, on_every_shape};
use futures_util::FutureExt;

on_every_shape!(
    a_drain_ends_beside_one_that_is_held,
    a_drain_that_is_forgotten_has_no_other_end_early,
    a_task_whose_drain_has_ended_is_waited_for,
);

/// Hangs when only one of the drains is woken.
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

/// The drain waits for a receiver that comes when a timer ends. Another drain, whose deadline has
/// passed and whose future is not polled any more, does not change that. Fails when the second
/// drain ends before.
fn a_drain_that_is_forgotten_has_no_other_end_early(shape: Shape) {
    shape.runtime().block_on(async {
        let mut forgotten = drain_with(Drain::default().deadline(Duration::from_millis(1)));
        // While this task is ready, the runtime is not quiescent.
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
        yield_now().await;
        let report = drain().await;
        assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Complete, 0), "{report}");
        assert!(late.await.unwrap());
    });
}

/// The future of a drain is kept after its end, as `pin!` does. Its task goes on and receives.
/// Fails when the exit treats the task as one that waits for a drain, and not for datagrams.
fn a_task_whose_drain_has_ended_is_waited_for(shape: Shape) {
    const DATAGRAMS: usize = 10;
    let runtime = shape.runtime();
    let address = Rc::new(Cell::new(None));
    let opened = Rc::clone(&address);
    let receiving = runtime.spawn(async move {
        let mut drain = pin!(drain());
        assert_eq!((&mut drain).await.outcome, DrainOutcome::Complete);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        opened.set(Some(socket.local_addr().unwrap()));
        let mut received = 0;
        while socket.recv().await.unwrap().is_some() {
            received += 1;
            // Altogether longer than the uncertain wait.
            sleep(Duration::from_millis(50)).await;
        }
        received
    });
    runtime.block_on(async {
        let address = loop {
            match address.get() {
                Some(address) => break address,
                // A loop that keeps the runtime busy would not let the drain end.
                None => sleep(Duration::from_millis(1)).await,
            }
        };
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..DATAGRAMS {
            sender.send_to(b"is handled for a while", address).unwrap();
        }
    });
    let report = runtime.shutdown(Drain::default());
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Complete, 0), "{report}");
    assert_eq!(receiving.now_or_never().expect("the task has ended").unwrap(), DATAGRAMS);
}
