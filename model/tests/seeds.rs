//! The short form of `cargo run --release -p ebbtide-model -- --seeds 100000`.

use ebbtide_model::{Coverage, Options, run_seed};

/// Fails with the seed of the first program for which an invariant does not hold. Under Miri the
/// programs are small, and Miri watches the memory.
#[test]
fn no_program_loses_a_datagram_on_the_kernel_in_memory() {
    let small = cfg!(miri);
    let seeds = number("EBBTIDE_MODEL_SEEDS").unwrap_or(if small { 20 } else { 3_000 });
    let first = number("EBBTIDE_MODEL_FIRST").unwrap_or(1);
    let mut coverage = Coverage::default();
    for seed in first..first + seeds {
        match run_seed(seed, Options { small, trace: false }) {
            Ok(more) => coverage.add(&more),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{coverage}");
}

/// A number from the environment, for runs that are longer, or that share the work.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap())
}
