//! Input that means no good: each peer may send whatever the kernel lets through. Every datagram is
//! delivered once and in order, also what only looks like none; nothing else comes with it, and
//! nothing stops.
//!
//! The long form has a million empty datagrams on each driver and transport:
//!
//! ```text
//! cargo test --release --test hostile_input -- --ignored --nocapture
//! ```

#[path = "../support/child.rs"]
mod child;
#[path = "../support/control.rs"]
mod control_message;
#[path = "../support/faults.rs"]
mod faults;
#[path = "../support/namespace.rs"]
mod namespace;
#[path = "../support/seccomp.rs"]
mod seccomp;
#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod checksums;
mod control;
mod empty;
mod errors;
mod sizes;
mod trains;

use ebbtide::task::yield_now;
use ebbtide::{DrainOutcome, DrainReport};

/// Lets the other tasks run until `condition` holds; fails after very many turns.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..10_000_000 {
        if condition() {
            return;
        }
        yield_now().await;
    }
    panic!("a socket is deaf");
}

async fn some_turns() {
    for _ in 0..5 {
        yield_now().await;
    }
}

fn assert_complete(report: &DrainReport) {
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Complete, 0), "{report}");
    assert_eq!((report.unsealed, report.completions_lost, report.unfinished), (0, 0, 0));
    assert_eq!(report.stats.received, report.stats.delivered, "{report}");
}
