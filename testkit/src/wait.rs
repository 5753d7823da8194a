//! Waiting in a test: for a condition, in a bounded loop, and never for a length of time.

use std::time::Duration;

use ebbtide::task::yield_now;
use ebbtide::time::timeout;
use ebbtide::{Drain, Runtime};

/// Turns after which a condition is taken to be one that never holds.
const MOST_TURNS: usize = 50_000_000;

/// Lets the other tasks run until `condition` holds.
///
/// # Panics
///
/// After very many turns.
pub async fn until(condition: impl Fn() -> bool) {
    for _ in 0..MOST_TURNS {
        if condition() {
            return;
        }
        yield_now().await;
    }
    panic!("the condition never holds: a socket is deaf, or a task is stuck");
}

/// Lets the other tasks run for `count` turns.
pub async fn turns(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

/// `usual`, or as many times longer as `EBBTIDE_TEST_PATIENCE` in the environment says. It is set
/// where the machine is emulated.
pub(crate) fn patience(usual: Duration) -> Duration {
    let factor = std::env::var("EBBTIDE_TEST_PATIENCE").map_or(1, |factor| {
        factor.parse().unwrap_or_else(|error| panic!("EBBTIDE_TEST_PATIENCE={factor}: {error}"))
    });
    usual * factor
}

/// Runs `scenario` on `runtime`.
///
/// # Panics
///
/// If it does not end within a minute, because a socket went deaf.
pub fn run<F: Future>(runtime: &Runtime, scenario: F) -> F::Output {
    let patience = patience(Duration::from_secs(60));
    runtime.block_on(async { timeout(patience, scenario).await.expect("it never ends") })
}

/// A drain whose deadline no test reaches: one that waits for what never comes hangs.
pub fn patient() -> Drain {
    Drain::default().deadline(Duration::from_secs(3_600))
}
