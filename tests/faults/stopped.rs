//! Another process stops and continues this one again and again. SIGSTOP and SIGCONT interrupt
//! calls without a handler.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use ebbtide::net::UnixAddr;
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::{Shape, Watchdog};

use crate::program;

/// How many pairs of signals the other process sends.
const STOPS: u32 = 3_000;

#[test]
fn a_program_that_is_stopped_and_continued_loses_nothing() {
    in_a_child(|| {
        let _watchdog = Watchdog::new("a process is stopped");
        // Every stop is followed by a continue, so this process is not left stopped. Pauses spread
        // the stops over all parts of the program.
        let script = "i=0; while [ $i -lt $2 ] && kill -STOP $1 && kill -CONT $1; do
            i=$((i + 1)); if [ $((i % 50)) -eq 0 ]; then sleep 0.01; fi; done; echo $i";
        let arguments = [std::process::id().to_string(), STOPS.to_string()];
        let mut other = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell is installed");
        let mut runs = 0;
        for (seed, shape) in (0..10_000).zip(Shape::ALL.into_iter().cycle()) {
            let run = format!("{}, seed {seed}", shape.name);
            program::run::<UnixAddr>(shape, seed).check(&[], &run);
            program::run::<SocketAddr>(shape, seed).check(&[], &run);
            runs += 1;
            if other.try_wait().unwrap().is_some() {
                break;
            }
        }
        let stops = other.wait_with_output().unwrap().stdout;
        let stops = String::from_utf8_lossy(&stops);
        println!("note: stopped {} times in {runs} runs", stops.trim());
        assert_eq!(stops.trim(), STOPS.to_string());
    });
}
