//! A storm of signals: 10 000 a second, to the thread of the runtime. Interrupted calls are not
//! restarted.

use std::net::SocketAddr;
use std::os::unix::net;
use std::thread;
use std::time::Duration;

use ebbtide::net::{UnixAddr, UnixDatagram};
use ebbtide::{Drain, DrainOutcome};
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::signal::Storm;
use ebbtide_testkit::{Ledger, Shape, Watchdog, numbered};

use crate::program;

#[test]
fn a_busy_program_in_a_storm_of_signals_loses_nothing() {
    in_a_child(|| {
        let _watchdog = Watchdog::new("a storm");
        let _storm = Storm::new();
        for (seed, shape) in (0..).zip(Shape::ALL.into_iter().cycle()).take(40) {
            let run = format!("{}, seed {seed}", shape.name);
            program::run::<UnixAddr>(shape, seed).check(&[], &run);
            program::run::<SocketAddr>(shape, seed).check(&[], &run);
        }
        assert!(Storm::signals() > 0, "there was no storm");
        println!("note: {} signals", Storm::signals());
    });
}

/// The program sleeps, and signals wake it far more often than datagrams.
#[test]
fn an_idle_program_in_a_storm_of_signals_loses_nothing() {
    in_a_child(|| {
        const DATAGRAMS: u64 = 100;
        let _watchdog = Watchdog::new("a storm");
        for shape in Shape::ALL {
            let (sender, receiver) = net::UnixDatagram::pair().unwrap();
            let sending = thread::spawn(move || {
                for number in 0..DATAGRAMS {
                    // The receiver sleeps in this time. What it receives does not depend on it.
                    thread::sleep(Duration::from_millis(1));
                    sender.send(&numbered(0, number, 100)).unwrap();
                }
            });
            let _storm = Storm::new();
            let runtime = shape.runtime();
            let ledger = runtime.block_on(async {
                let receiver = UnixDatagram::from_std(receiver).unwrap();
                let mut ledger = Ledger::default();
                while ledger.received < DATAGRAMS {
                    ledger.enter(&receiver.recv().await.unwrap().expect("not drained"));
                }
                ledger
            });
            let report = runtime.shutdown(Drain::default().quiesce(true));
            assert_eq!(ledger.holes, 0, "{}", shape.name);
            assert_eq!(report.outcome, DrainOutcome::Complete, "{}: {report}", shape.name);
            sending.join().unwrap();
        }
        assert!(Storm::signals() > 100, "there was no storm");
    });
}
