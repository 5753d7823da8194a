//! Counts the user instructions of one echo and of one received datagram, by callgrind.
//!
//! A workload of the bench runs twice, the second time with more operations. The difference, divided
//! by the operations, is what one operation costs without the start and the end. It does not depend
//! on the speed of the machine or on what else runs there: it repeats within 1 %.
//!
//! The recorded figures are in `bench/results/instructions.toml`. Each is for one compiler and one
//! kernel; a figure that is exceeded by more than [`TOLERANCE_PERCENT`] is an error.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use xshell::{Shell, cmd};

/// How much more a count may be than the recorded figure, in percent.
const TOLERANCE_PERCENT: u64 = 3;

/// The parts of a workload that are run, in quarters.
const QUARTERS: [u64; 2] = [1, 3];

const FIGURES: &str = "bench/results/instructions.toml";

#[derive(Deserialize)]
struct Figures {
    figure: Vec<Figure>,
}

#[derive(Deserialize)]
struct Figure {
    workload: String,
    contestant: String,
    /// The operations of the whole workload.
    operations: u64,
    /// What one operation costs.
    instructions: u64,
}

pub(crate) fn is_available(shell: &Shell) -> Result<bool> {
    let version = cmd!(shell, "sh -c").arg("command -v valgrind").quiet().ignore_status();
    Ok(version.output()?.status.success())
}

pub(crate) fn run(shell: &Shell, root: &Path) -> Result<()> {
    ensure!(is_available(shell)?, "valgrind is not installed: run `apt-get install valgrind`");
    let figures: Figures = toml::from_str(&shell.read_file(FIGURES)?).context(FIGURES)?;
    cmd!(shell, "cargo build --release --package ebbtide-bench").run()?;
    println!("{:<18}{:<16}{:>10}{:>10}", "workload", "contestant", "recorded", "counted");
    let mut exceeded = Vec::new();
    for figure in &figures.figure {
        let counted = count(shell, root, figure)?;
        let Figure { workload, contestant, instructions, .. } = figure;
        println!("{workload:<18}{contestant:<16}{instructions:>10}{counted:>10}");
        if counted * 100 > instructions * (100 + TOLERANCE_PERCENT) {
            exceeded.push(format!("{workload} {contestant}"));
        }
    }
    if !exceeded.is_empty() {
        let exceeded = exceeded.join(", ");
        bail!(
            "more instructions than recorded in {FIGURES}, by over {TOLERANCE_PERCENT} %: {exceeded}"
        );
    }
    Ok(())
}

/// The instructions of one operation.
fn count(shell: &Shell, root: &Path, figure: &Figure) -> Result<u64> {
    let [few, many] = QUARTERS;
    let operations = figure.operations * (many - few) / 4;
    let difference =
        total(shell, root, figure, many)?.saturating_sub(total(shell, root, figure, few)?);
    Ok(difference / operations)
}

/// The instructions of a whole process that runs a part of the workload. The load comes from its
/// children, which have output files of their own.
fn total(shell: &Shell, root: &Path, figure: &Figure, quarters: u64) -> Result<u64> {
    let folder = root.join("target/callgrind");
    shell.remove_path(&folder)?;
    shell.create_dir(&folder)?;
    let bench = root.join("target/release/ebbtide-bench");
    let Figure { workload, contestant, .. } = figure;
    let scale = format!("{}", quarters as f64 / 4.0);
    let output = format!("--callgrind-out-file={}/%p", folder.display());
    let ran = cmd!(shell, "valgrind --tool=callgrind {output} {bench}")
        .args(["measure", workload, contestant, &scale])
        .quiet()
        .ignore_status()
        .output()?;
    let log = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{workload} {contestant}: {}\n{log}", ran.status);
    let processes = shell.read_dir(&folder)?;
    let of_process = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let parent = processes.iter().min_by_key(|path| of_process(path).unwrap_or(u32::MAX));
    let parent = parent.context("callgrind has written nothing")?;
    read_total(&fs::read_to_string(parent)?)
}

/// Reads the sum from what callgrind has written.
fn read_total(text: &str) -> Result<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    Ok(line.context("callgrind has written no sum")?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_read() {
        assert_eq!(read_total("version: 1\nfn=(1) a\n1 5\ntotals: 1234\n").unwrap(), 1234);
        assert!(read_total("version: 1\n").is_err());
    }
}
