//! Runs random programs on the kernel in memory. `--seeds N` runs N programs. `--seed N` replays
//! one and prints every step.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::{Coverage, Options, run_seed};

const USAGE: &str = "usage: ebbtide-model --seeds COUNT [--from FIRST] [--small]
       ebbtide-model --seed SEED [--small]

--seeds runs the programs of COUNT seeds, starting at FIRST (default 1).
--seed replays one and prints every step.
--small keeps the programs small, as under Miri. The same seed is then another program.";

/// The number of seeds from which on a run must have seen every event.
const ENOUGH_SEEDS: u64 = 20_000;

/// The number of failures after which a run ends.
const MOST_FAILURES: usize = 5;

struct Arguments {
    first: u64,
    count: u64,
    options: Options,
}

/// The command `ebbtide-model`, with the arguments of this process.
pub fn command() -> ExitCode {
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    run(&arguments)
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut arguments = Arguments { first: 1, count: 0, options: Options::default() };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seeds" => arguments.count = words.next()?.parse().ok()?,
            "--from" => arguments.first = words.next()?.parse().ok()?,
            "--seed" => {
                arguments.first = words.next()?.parse().ok()?;
                arguments.count = 1;
                arguments.options.trace = true;
            }
            "--small" => arguments.options.small = true,
            _ => return None,
        }
    }
    (arguments.count > 0).then_some(arguments)
}

fn run(arguments: &Arguments) -> ExitCode {
    let start = Instant::now();
    let mut told = start;
    let mut coverage = Coverage::default();
    let mut failures = Vec::new();
    let mut done = 0;
    for seed in arguments.first..arguments.first.saturating_add(arguments.count) {
        if cfg!(miri) {
            // An error of Miri ends the process at once, without printing the seed.
            println!("seed {seed}");
        }
        match run_seed(seed, arguments.options) {
            Ok(more) => coverage.add(&more),
            Err(failure) => {
                println!("{failure}");
                let small = if arguments.options.small { " --small" } else { "" };
                println!("  replay: cargo xtask model --seed {seed}{small}");
                failures.push(failure);
            }
        }
        done += 1;
        if failures.len() >= MOST_FAILURES {
            break;
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            println!("{done} of {} seeds, {:.0} s", arguments.count, start.elapsed().as_secs_f64());
        }
    }
    println!("{coverage}");
    println!("{done} seeds in {:.1} s, {} failed", start.elapsed().as_secs_f64(), failures.len());
    let missing = coverage.missing();
    if done >= ENOUGH_SEEDS && !missing.is_empty() {
        println!("never exercised: {}", missing.join("; "));
        return ExitCode::FAILURE;
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
