//! A forked child lives on while its parent shuts down. It has inherited the ring and the sockets,
//! and keeps both alive; it must not keep the receives alive with them.

use std::net::SocketAddr;

use ebbtide::net::UnixAddr;
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::fork::{Bait, Idle};
use ebbtide_testkit::socket::left_in_queue;
use ebbtide_testkit::{Shape, Transport, Watchdog};

use crate::program;

/// Runs the program, forks half-way, and has the child outlive the runtime.
fn run<T: Transport>(shape: Shape, seed: u64) -> (program::Finished<T>, Idle) {
    let run = format!("{}, {}, seed {seed}", shape.name, std::any::type_name::<T>());
    let mut fork = None;
    let mut finished = program::run_with::<T>(shape.runtime(), seed, || fork = Some(Idle::new()));
    let fork = fork.expect("the program came to its middle");
    assert!(fork.is_alive(), "{run}");
    finished.check(&[], &run);
    (finished, fork)
}

#[test]
fn a_child_that_outlives_the_runtime_of_its_parent_takes_nothing() {
    in_a_child(|| {
        let _watchdog = Watchdog::new("a child lives on");
        for (seed, shape) in (0..).zip(Shape::ALL.into_iter().cycle()).take(8) {
            run::<UnixAddr>(shape, seed);
            let (finished, _alive) = run::<SocketAddr>(shape, seed);
            // The sockets are open in the child, and here, without their seal. What they receive
            // from now on stays in their queues: nobody is there to take it, or to write it
            // anywhere.
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
