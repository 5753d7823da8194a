//! Runs the models. With `--nocapture`, each prints how many executions it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ebbtide_loom::{end, sleep};

/// The largest number of preemptions in an execution. Both two and three find every planted bug
/// (`cargo xtask mutations loom`). Without a bound, three threads take hours.
const PREEMPTIONS: usize = 3;

fn in_every_interleaving(name: &str, preemptions: Option<usize>, model: fn()) {
    let executions = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{name}: {} executions", executions.load(Ordering::Relaxed));
}

macro_rules! models {
    ($($of:ident: $($model:ident $preemptions:expr),+;)+) => {
        $($(#[test]
        fn $model() {
            in_every_interleaving(stringify!($model), $preemptions, $of::$model);
        })+)+
    };
}

models! {
    sleep:
        every_task_that_is_handed_over_is_taken Some(PREEMPTIONS),
        every_wake_of_the_root_leads_to_a_poll Some(PREEMPTIONS),
        a_task_and_the_root_wake_the_same_sleep Some(PREEMPTIONS),
        the_drain_ends_after_the_last_blocking_call_was_taken Some(PREEMPTIONS),
        the_drain_ends_when_other_threads_have_let_go Some(PREEMPTIONS);
    end:
        nothing_of_one_thread_is_left_after_the_end None,
        nothing_of_two_threads_is_left_after_the_end Some(PREEMPTIONS);
}
