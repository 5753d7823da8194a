//! `compare`: every contestant on every workload, round by round.
//!
//! Within a round all contestants of a workload run one after the other, in an order that changes
//! from round to round. A ratio is taken within a round, and then its median over the rounds. So
//! what changes slowly on the machine (other load, the clock of the CPU) favours none of them.

mod entrant;
mod options;
mod outcome;
mod plots;
mod table;

use std::io;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use crate::harness::sockets;
use crate::workloads::Workload;
use entrant::{AGAINST, Builds, Entrant};
pub(crate) use options::Args;
use outcome::{Outcome, Samples};

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
    let builds = Builds::find(args.against.as_deref())?;
    let mut fields: Vec<Field<'_>> = workloads
        .iter()
        .map(|workload| {
            let entrants = builds.entrants(workload, &args.contestants(workload));
            Field { workload, entrants, samples: Samples::new(rounds) }
        })
        .collect();
    for field in fields.iter().filter(|field| args.against.is_some() && !field.has(AGAINST)) {
        eprintln!("remark: the other build does not offer {}", field.workload.name);
    }
    let mut void = Vec::new();
    let cells: usize = fields.iter().map(|field| field.entrants.len()).sum();
    let progress = progress_bar(cells * rounds);
    for round in 0..rounds {
        for field in &mut fields {
            let workload = field.workload;
            for entrant in field.in_order_of(round) {
                progress.set_message(format!("{} {}", workload.name, entrant.name));
                match entrant.measure(workload, args.scale()) {
                    Ok(metrics) => field.samples.add(round, entrant.name, metrics),
                    Err(error) => {
                        let what = format!("{} {}: {error}", workload.name, entrant.name);
                        progress.println(&what);
                        void.push(what);
                    }
                }
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();

    let outcomes: Vec<_> = fields.iter().map(Field::outcome).collect();
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

/// A workload, who takes part in it, and what was measured.
struct Field<'a> {
    workload: &'a Workload,
    entrants: Vec<Entrant<'a>>,
    samples: Samples,
}

impl<'a> Field<'a> {
    /// The entrants, in the order of a round. The order rotates, and every other round goes through
    /// it backwards: so each two of them precede each other equally often.
    fn in_order_of(&self, round: usize) -> Vec<Entrant<'a>> {
        let mut entrants = self.entrants.clone();
        let shift = round / 2 % entrants.len().max(1);
        entrants.rotate_left(shift);
        if !round.is_multiple_of(2) {
            entrants.reverse();
        }
        entrants
    }

    fn has(&self, name: &str) -> bool {
        self.entrants.iter().any(|entrant| entrant.name == name)
    }

    fn outcome(&self) -> Outcome<'a> {
        let names: Vec<&str> = self.entrants.iter().map(|entrant| entrant.name).collect();
        outcome::of(self.workload, &self.samples, &names)
    }
}

fn progress_bar(measurements: usize) -> ProgressBar {
    let progress = ProgressBar::new(measurements as u64);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}, {eta} left  {msg:40!}")
        .unwrap_or_else(|_invalid| ProgressStyle::default_bar());
    // Drawn between measurements only, never by a thread during one.
    progress.with_style(style)
}
