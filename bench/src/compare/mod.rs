//! `compare`: every contestant on every workload, round by round.
//!
//! Within a round all contestants of a workload run one after the other, in an order that is rotated
//! from round to round, and ratios are taken within a round before their median is: so what changes
//! slowly on the machine (other load, the clock of the CPU) does not favour one of them.

mod options;
mod outcome;
mod plots;
mod table;

use std::io;
use std::process::{Command, ExitCode};

use indicatif::{ProgressBar, ProgressStyle};

use crate::contestants::Contestant;
use crate::harness::sockets;
use crate::metric::Metric;
use crate::workloads::Workload;
pub(crate) use options::Args;
use outcome::Samples;

pub(crate) fn run(args: &Args) -> ExitCode {
    match compare(args) {
        Ok(Verdict::Valid) => ExitCode::SUCCESS,
        Ok(Verdict::Void) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ebbtide-bench compare: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Verdict {
    Valid,
    /// At least one measurement was void.
    Void,
}

fn compare(args: &Args) -> io::Result<Verdict> {
    if !sockets::may_force_receive_buffer() {
        eprintln!(
            "remark: receive buffers cannot be made large enough (CAP_NET_ADMIN, or a larger \
             net.core.rmem_max); measurements in which the kernel drops datagrams will be void"
        );
    }
    let (workloads, rounds) = (args.workloads(), args.rounds());
    let mut samples: Vec<Samples> = workloads.iter().map(|_| Samples::new(rounds)).collect();
    let mut void = Vec::new();
    let cells: usize = workloads.iter().map(|workload| args.field(workload).len()).sum();
    let progress = progress_bar(cells * rounds);
    for round in 0..rounds {
        for (workload, samples) in workloads.iter().zip(&mut samples) {
            let mut field = args.field(workload);
            let shift = round % field.len().max(1);
            field.rotate_left(shift);
            for contestant in field {
                progress.set_message(format!("{} {}", workload.name, contestant.name));
                match measure(workload, contestant, args.scale()) {
                    Ok(metrics) => samples.add(round, contestant.name, metrics),
                    Err(error) => {
                        let what = format!("{} {}: {error}", workload.name, contestant.name);
                        progress.println(&what);
                        void.push(what);
                    }
                }
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();

    let outcomes: Vec<_> = workloads
        .iter()
        .zip(&samples)
        .map(|(workload, samples)| outcome::of(workload, samples, &args.field(workload)))
        .collect();
    for outcome in &outcomes {
        println!("{}", table::of(outcome));
    }
    if let Some(path) = &args.json {
        outcome::write_json(path, &outcomes)?;
    }
    if let Some(directory) = &args.plots {
        plots::write(directory, &outcomes)?;
    }
    if void.is_empty() {
        return Ok(Verdict::Valid);
    }
    eprintln!("{} measurements were void; the first: {}", void.len(), void[0]);
    Ok(Verdict::Void)
}

/// Runs one measurement in a fresh process.
fn measure(workload: &Workload, contestant: &Contestant, scale: f64) -> io::Result<Vec<Metric>> {
    let output = Command::new(std::env::current_exe()?)
        .args(["measure", workload.name, contestant.name, &scale.to_string()])
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{}: {}", output.status, said.trim())));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn progress_bar(measurements: usize) -> ProgressBar {
    let progress = ProgressBar::new(measurements as u64);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}, {eta} left  {msg:40!}")
        .unwrap_or_else(|_invalid| ProgressStyle::default_bar());
    // Drawn between measurements only, never by a thread beside them.
    progress.with_style(style)
}
