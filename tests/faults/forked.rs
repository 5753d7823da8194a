//! A forked child outlives the runtime of its parent. It has inherited the ring and the sockets,
//! and keeps both open. It must not keep the receives in flight.

use std::net::SocketAddr;

use ebbtide::net::UnixAddr;
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::fork::{Bait, Idle};
use ebbtide_testkit::socket::left_in_queue;
use ebbtide_testkit::{Shape, Transport, Watchdog};

use crate::program;

/// Runs the program and forks in its middle. The child outlives the runtime.
fn run<T: Transport>(shape: Shape, seed: u64) -> (program::Finished<T>, Idle) {
    let run = format!("{}, {}, seed {seed}", shape.name, std::any::type_name::<T>());
    let mut fork = None;
    let mut finished = program::run_with::<T>(shape.runtime(), seed, || fork = Some(Idle::new()));
    let fork = fork.expect("the program reached its middle");
    assert!(fork.is_alive(), "{run}");
    finished.check(&[], &run);
    (finished, fork)
}

#[test]
fn a_child_that_outlives_the_runtime_of_its_parent_takes_nothing() {
    in_a_child(|| {
        let _watchdog = Watchdog::new("a child outlives the runtime");
        for (seed, shape) in (0..).zip(Shape::ALL.into_iter().cycle()).take(8) {
            run::<UnixAddr>(shape, seed);
            let (finished, _alive) = run::<SocketAddr>(shape, seed);
            // The sockets are open in the child, and here, without their seal. From now on
            // datagrams stay in their queues, because nobody receives them.
            let bait = Bait::new(512 * 66_000);
            for channel in &finished.channels {
                for number in 0..10 {
                    channel.sender.send(&[number + 1; 1_000]).unwrap();
                }
                assert_eq!(left_in_queue(&channel.watch), 10, "{}", shape.name);
            }
            assert!(bait.is_untouched(), "{}: freed memory was written", shape.name);
        }
    });
}
