//! The short form of `cargo xtask model --seeds 100000`.

#![cfg(ebbtide_model)]

use ebbtide_model::{Coverage, Options, run_seed};

/// Fails with the seed of the first program for which an invariant does not hold. Under Miri the
/// programs are small, and Miri checks memory accesses. `cargo xtask model --miri` runs more of
/// them.
#[test]
fn no_program_loses_a_datagram_on_the_kernel_in_memory() {
    let small = cfg!(miri);
    let seeds = if small { 20 } else { 20_000 };
    let mut coverage = Coverage::default();
    for seed in 1..=seeds {
        match run_seed(seed, Options { small, trace: false }) {
            Ok(more) => coverage.add(&more),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{coverage}");
}
