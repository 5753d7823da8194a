//! Waiting in a test: for a condition, in a bounded loop, never for a length of time.

use std::time::Duration;

use ebbtide::task::yield_now;
use ebbtide::time::timeout;
use ebbtide::{Drain, Runtime};

/// The number of turns after which a condition counts as one that never holds.
const MOST_TURNS: usize = 50_000_000;

/// Lets the other tasks run until `condition` holds.
///
/// # Panics
///
/// If `condition` does not hold after `MOST_TURNS` turns.
pub async fn until(condition: impl Fn() -> bool) {
    for _ in 0..MOST_TURNS {
        if condition() {
            return;
        }
        yield_now().await;
    }
    panic!("the condition never holds: a socket no longer receives, or a task is stuck");
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
/// If it does not end within a minute, because a socket no longer receives.
pub fn run<F: Future>(runtime: &Runtime, scenario: F) -> F::Output {
    let patience = patience(Duration::from_secs(60));
    runtime
        .block_on(async { timeout(patience, scenario).await.expect("the scenario does not end") })
}

/// A drain with a deadline that no test reaches. If it waits for something that never comes, the
/// test hangs.
pub fn patient() -> Drain {
    Drain::default().deadline(Duration::from_secs(3_600))
}
