//! Runs random programs on the model, a kernel in memory.

use std::num::NonZero;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::jobs::{self, Job, processors};
use crate::miri;

/// Lets a runtime run on the model. Mutations use the same spelling of the flag, because another
/// one would be another build.
pub(crate) const CFG: (&str, &str) = ("RUSTFLAGS", "--cfg=ebbtide_model");

const SEEDS: u64 = 100_000;
const SEEDS_UNDER_MIRI: u64 = 2_000;

#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// How many programs run. By default 100 000, with --miri 2 000
    #[arg(long, value_name = "COUNT")]
    seeds: Option<u64>,
    /// The first seed. By default 1
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// Replay one program and print every step
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Keep the programs small, as under Miri. The same seed is then another program
    #[arg(long)]
    small: bool,
    /// Run small programs under Miri, split over the CPUs
    #[arg(long, conflicts_with = "seed")]
    miri: bool,
    /// How many processes Miri runs in. By default one for each CPU
    #[arg(long, value_name = "COUNT", requires = "miri")]
    jobs: Option<NonZero<usize>>,
}

pub(crate) fn run(shell: &Shell, root: &Path, args: &Args) -> Result<()> {
    let from = args.from.unwrap_or(1);
    if args.miri {
        let jobs = args.jobs.map_or_else(processors, NonZero::get);
        return interpret(root, from, args.seeds.unwrap_or(SEEDS_UNDER_MIRI), jobs);
    }
    let mut arguments = match args.seed {
        Some(seed) => vec!["--seed".to_owned(), seed.to_string()],
        None => seed_range(from, args.seeds.unwrap_or(SEEDS)),
    };
    if args.small {
        arguments.push("--small".to_owned());
    }
    let (name, flags) = CFG;
    cmd!(shell, "cargo run --release --quiet --package ebbtide-model -- {arguments...}")
        .env(name, flags)
        .run()?;
    Ok(())
}

fn seed_range(from: u64, count: u64) -> Vec<String> {
    ["--from".to_owned(), from.to_string(), "--seeds".to_owned(), count.to_string()].into()
}

/// The seeds are arguments and not variables, because cargo-miri keeps the environment of the
/// build.
fn interpret(root: &Path, from: u64, count: u64, processes: usize) -> Result<()> {
    let start = Instant::now();
    // A separate folder, so that a build does not replace what is being interpreted.
    let target = root.join("target/model-miri");
    let target_dir = target.to_string_lossy();
    let variables = [miri::FLAGS, CFG, ("CARGO_TARGET_DIR", &*target_dir)];
    let job = |name: String, from, count| {
        let command = ["+nightly", "miri", "run", "-p", "ebbtide-model", "--", "--small"];
        let arguments = command.map(str::to_owned).into_iter().chain(seed_range(from, count));
        Job { name, arguments: arguments.collect(), variables: &variables }
    };
    // Runs alone, so that the others do not wait for each other's build.
    jobs::run_all(root, &target, &[job("build".to_owned(), from, 1)], 1)?;
    let jobs: Vec<Job<'_>> = parts(from, count, processes as u64)
        .map(|(from, count)| job(format!("from-{from}"), from, count))
        .collect();
    let outputs = jobs::run_all(root, &target, &jobs, processes)?;
    for (name, sum) in sum_counts(&outputs) {
        println!("{sum:14}  {name}");
    }
    println!("{count} seeds in {} s, nothing found", start.elapsed().as_secs());
    Ok(())
}

/// The first seed and the count of each part. No part is empty.
fn parts(from: u64, count: u64, parts: u64) -> impl Iterator<Item = (u64, u64)> {
    let start = move |part| count * part / parts;
    (0..parts)
        .map(move |part| (from + start(part), start(part + 1) - start(part)))
        .filter(|&(_, count)| count > 0)
}

/// Adds up the lines `    COUNT  NAME` of all outputs, in the order of the first.
fn sum_counts(outputs: &[String]) -> Vec<(&str, u64)> {
    let mut sums: Vec<(&str, u64)> = Vec::new();
    for line in outputs.iter().flat_map(|output| output.lines()) {
        let Some((count, name)) = count_and_name(line) else { continue };
        match sums.iter_mut().find(|(summed, _)| *summed == name) {
            Some((_, sum)) => *sum += count,
            None => sums.push((name, count)),
        }
    }
    sums
}

fn count_and_name(line: &str) -> Option<(u64, &str)> {
    let (count, name) = line.strip_prefix(' ')?.trim_start().split_once("  ")?;
    Some((count.parse().ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_seeds_once() {
        for (count, processors) in [(2_000, 2), (7, 3), (1, 4), (0, 2)] {
            let mut next = 5;
            for (from, count) in parts(5, count, processors) {
                assert_eq!(from, next);
                assert!(count > 0);
                next += count;
            }
            assert_eq!(next, 5 + count);
        }
    }

    #[test]
    fn counts_of_all_processes_are_added_up() {
        let first = "seed 1\n      12  datagrams sent\n       3  enters refused\n1 seeds in 2 s\n";
        let second = "       1  enters refused\n       2  timers\n   no count\n";
        let outputs = [first.to_owned(), second.to_owned()];
        let sums = [("datagrams sent", 12), ("enters refused", 4), ("timers", 2)];
        assert_eq!(sum_counts(&outputs), sums);
    }
}
