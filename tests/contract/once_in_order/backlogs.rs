//! Backlogs, queues and pools of random sizes.
//!
//! [`shutdown_delivers_every_backlog`] has 200 seeds of 64 sockets. Every fifth seed has up to 1
//! 000 datagrams on each socket, the others have up to 50.

use std::net::SocketAddr;

use ebbtide::net::UnixAddr;
use ebbtide::task::yield_now;
use ebbtide::{Drain, Runtime};
use ebbtide_testkit::report::assert_complete;
use ebbtide_testkit::{Ledger, Shape, Transport, on_every_shape};

use crate::backlog::{Backlog, Queue, arrival};

on_every_shape!(a_socket_goes_on_receiving_after_every_end_of_its_receive,);

const SEEDS: u64 = 200;

const SOCKETS: u32 = 64;

/// Fails when a receive is not cancelled, when it is reaped once instead of to its final completion
/// (here a small completion queue overflows), or when reading stops before `EAGAIN`.
#[test]
fn shutdown_delivers_every_backlog() {
    for seed in 0..SEEDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let most = if seed % 5 == 0 { 1_000 } else { 50 };
        let completions = random.usize(8..=1024);
        let runtime = Runtime::builder()
            .submission_entries(random.usize(2..=completions))
            .completion_entries(completions)
            .buffers(random.usize(4..=512))
            .build()
            .unwrap();
        let mut backlogs: Vec<Box<dyn Backlog>> = runtime.block_on(async {
            (0..SOCKETS)
                .map(|sender| match random.usize(0..=1) {
                    0 => Box::new(Queue::<UnixAddr>::open(sender)) as Box<dyn Backlog>,
                    _ => Box::new(Queue::<SocketAddr>::open(sender)),
                })
                .collect()
        });
        runtime.block_on(async {
            // Some datagrams may be in the inboxes already, or delivered, when the rest arrives.
            for _ in 0..random.usize(1..=3) {
                for backlog in &mut backlogs {
                    backlog.grow(random.usize(0..=most / 3));
                }
                for _ in 0..random.usize(0..=2) {
                    yield_now().await;
                }
            }
            for backlog in &backlogs {
                backlog.spawn_receiver();
            }
        });
        let report = runtime.shutdown(Drain::default());
        for backlog in &backlogs {
            backlog.check(seed);
        }
        assert_complete(&report);
        assert_eq!(report.sockets, SOCKETS as usize, "seed {seed}");
        assert_eq!(report.stats.received, report.stats.delivered, "seed {seed}: {report}");
    }
}

/// Fails when a receive is not armed again after an empty datagram, which ends it in the kernel, or
/// after a full completion queue, because the socket then receives nothing.
fn a_socket_goes_on_receiving_after_every_end_of_its_receive(shape: Shape) {
    fn check<T: Transport>(shape: Shape) {
        shape.runtime().block_on(async {
            let mut queue = Queue::<T>::open(0);
            let mut ledger = Ledger::default();
            for _ in 0..20 {
                queue.sender.send(&[]).unwrap();
                queue.grow(20);
                let mut kept = Vec::new();
                let mut empty = 0;
                while empty == 0 || ledger.received < queue.sent {
                    match arrival(&queue.receiver).await {
                        Some(datagram) if datagram.is_empty() => empty += 1,
                        Some(datagram) => {
                            ledger.enter(&datagram);
                            kept.push(datagram);
                        }
                        None if kept.is_empty() => {
                            panic!("it receives nothing: {:?}", queue.receiver.stats())
                        }
                        // The pool is empty, so the buffers are returned.
                        None => kept.clear(),
                    }
                }
                assert_eq!((empty, ledger.holes), (1, 0), "{}", shape.name);
            }
        });
    }

    check::<UnixAddr>(shape);
    check::<SocketAddr>(shape);
}
