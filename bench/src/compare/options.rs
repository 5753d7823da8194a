//! [`Args`] of `compare`.

use std::num::NonZero;
use std::path::PathBuf;

use crate::contestants::{self, Contestant};
use crate::workloads::{self, Workload};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure these: names as of `list`, or the beginning of several; all unless given
    #[arg(value_name = "WORKLOAD", value_parser = beginning_of_workloads)]
    workloads: Vec<String>,
    /// Measure only these; all unless given
    #[arg(
        long,
        value_name = "A,B",
        value_delimiter = ',',
        value_parser = contestants::parse,
    )]
    contestants: Vec<&'static Contestant>,
    /// How often everything is measured [default: 7, or 3 with --quick]
    #[arg(long, value_name = "N")]
    rounds: Option<NonZero<usize>>,
    /// Fewer rounds of shorter measurements: for a look, not for a claim
    #[arg(short, long)]
    quick: bool,
    /// Measure `ebbtide` of another build of this program as well, as `against`
    #[arg(long, value_name = "BINARY")]
    pub(super) against: Option<PathBuf>,
    /// Write medians, spreads and ratios
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write plots as SVG
    #[arg(long, value_name = "DIR")]
    pub(super) plots: Option<PathBuf>,
}

impl Args {
    pub(super) fn workloads(&self) -> Vec<Workload> {
        let mut chosen = workloads::all();
        chosen.retain(|workload| {
            self.workloads.is_empty() || self.workloads.iter().any(|name| means(name, workload))
        });
        chosen
    }

    /// The contestants that offer a workload.
    pub(super) fn contestants(&self, workload: &Workload) -> Vec<&'static Contestant> {
        let mut chosen = match &self.contestants[..] {
            [] => contestants::all(),
            chosen => chosen.to_vec(),
        };
        chosen.retain(|contestant| workload.is_offered_by(contestant));
        chosen
    }

    pub(super) fn rounds(&self) -> usize {
        self.rounds.map_or(if self.quick { 3 } else { 7 }, NonZero::get)
    }

    /// The share of the datagrams of a measurement.
    pub(super) fn scale(&self) -> f64 {
        if self.quick { 0.5 } else { 1.0 }
    }
}

fn beginning_of_workloads(name: &str) -> Result<String, String> {
    match workloads::all().iter().any(|workload| workload.name.starts_with(name)) {
        true => Ok(name.to_owned()),
        false => Err("no workload has such a name (see `list`)".to_owned()),
    }
}

/// A whole name means that workload alone, and not others that begin with it.
fn means(name: &str, workload: &Workload) -> bool {
    match workloads::find(name) {
        Some(whole) => whole.name == workload.name,
        None => workload.name.starts_with(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_name_means_that_workload_alone() {
        let meant = |name| {
            let all = workloads::all();
            all.iter().filter(|workload| means(name, workload)).count()
        };
        assert_eq!(meant("echo-64"), 1);
        assert_eq!(meant("echo-6"), 2);
    }
}
