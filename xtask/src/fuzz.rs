//! Runs each fuzz target for some seconds.
//!
//! New inputs are kept in `fuzz/target/corpus`, failures in `fuzz/artifacts`. To keep a failure,
//! give it a name and move it to `fuzz/corpus`. Tests of the workspace replay that folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

/// The maximum length of an input. A datagram header, its control messages and some payload fit.
const MAX_LEN: u32 = 1_200;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many seconds each target runs
    #[arg(default_value_t = 60)]
    seconds: u32,
}

impl Args {
    pub(crate) fn of_seconds(seconds: u32) -> Self {
        Self { seconds }
    }
}

pub(crate) fn run(shell: &Shell, root: &Path, args: &Args) -> Result<()> {
    for target in shell.read_dir("fuzz/targets")? {
        let target = target.file_stem().context("a target file has a name")?.to_string_lossy();
        run_target(shell, root, &target, args.seconds)?;
    }
    Ok(())
}

fn run_target(shell: &Shell, root: &Path, target: &str, seconds: u32) -> Result<()> {
    let found = format!("fuzz/target/corpus/{target}");
    shell.create_dir(&found)?;
    let limits = [format!("-max_total_time={seconds}"), format!("-max_len={MAX_LEN}")];
    let output = cmd!(shell, "cargo +nightly fuzz run --fuzz-dir fuzz {target} {found}")
        .args([&format!("fuzz/corpus/{target}"), "--"])
        .args(limits)
        .arg("-print_final_stats=1")
        .ignore_status()
        .output()?;
    // libFuzzer writes to stderr.
    let log = root.join(format!("fuzz/target/{target}.log"));
    fs::write(&log, &output.stderr)?;
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().filter(|line| tells_the_result(line)).for_each(|l| println!("{target}: {l}"));
    if !output.status.success() {
        bail!("{target} failed: {}, {}", output.status, log.display());
    }
    Ok(())
}

fn tells_the_result(line: &str) -> bool {
    const BEGINNINGS: [&str; 5] = ["INFO: Seed", "Done", "SUMMARY", "Test unit", "error"];
    BEGINNINGS.iter().any(|beginning| line.starts_with(beginning))
        || line.starts_with("==") && line.contains("ERROR")
        || line.starts_with("thread ") && line.contains("panicked")
}
