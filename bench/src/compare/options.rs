//! [`Options`] of `compare`.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::{Long, Short, Value, ValueExt};

use crate::contestants::{self, Contestant};
use crate::workloads::{self, Workload};

pub(super) const USAGE: &str = "\
Usage: ebbtide-bench compare [WORKLOAD ..] [OPTION ..]

  --contestants A,B   only these (default: all)
  --rounds N          how often everything is measured (default: 7, or 3 with --quick)
  --quick             fewer rounds of shorter measurements: for a look, not for a claim
  --json FILE         write medians, spreads and ratios
  --plots DIR         write plots as SVG

A WORKLOAD may be the beginning of several names. See `ebbtide-bench list`.";

pub(super) struct Options {
    pub(super) workloads: Vec<Workload>,
    contestants: Vec<&'static Contestant>,
    pub(super) rounds: usize,
    /// Of the datagrams of a measurement.
    pub(super) scale: f64,
    pub(super) json: Option<PathBuf>,
    pub(super) plots: Option<PathBuf>,
}

impl Options {
    pub(super) fn parse(arguments: &[&str]) -> Result<Self, String> {
        Self::read(arguments).map_err(|error| format!("{error}\n\n{USAGE}"))
    }

    fn read(arguments: &[&str]) -> Result<Self, lexopt::Error> {
        let mut parser = lexopt::Parser::from_args(arguments.iter().map(OsString::from));
        let (mut names, mut contestants) = (Vec::<String>::new(), contestants::all());
        let (mut rounds, mut quick, mut json, mut plots) = (None, false, None, None);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("contestants") => contestants = some_contestants(&parser.value()?.string()?)?,
                Long("rounds") => rounds = Some(parser.value()?.parse::<usize>()?.max(1)),
                Long("quick") | Short('q') => quick = true,
                Long("json") => json = Some(parser.value()?.into()),
                Long("help") | Short('h') => return Err("help was asked for".into()),
                Long("plots") => plots = Some(parser.value()?.into()),
                Value(name) => names.push(name.string()?),
                other => return Err(other.unexpected()),
            }
        }
        let (default_rounds, scale) = if quick { (3, 0.5) } else { (7, 1.0) };
        Ok(Self {
            workloads: some_workloads(&names)?,
            contestants,
            rounds: rounds.unwrap_or(default_rounds),
            scale,
            json,
            plots,
        })
    }

    /// The contestants that offer a workload.
    pub(super) fn field(&self, workload: &Workload) -> Vec<&'static Contestant> {
        let offers = |contestant: &&&Contestant| workload.is_offered_by(contestant);
        self.contestants.iter().filter(offers).copied().collect()
    }
}

fn some_workloads(names: &[String]) -> Result<Vec<Workload>, lexopt::Error> {
    let mut chosen = workloads::all();
    for name in names {
        if !chosen.iter().any(|workload| workload.name.starts_with(name.as_str())) {
            return Err(format!("there is no workload {name}").into());
        }
    }
    // A whole name means that workload alone, and not others that begin with it.
    let whole = |name: &str| names.iter().any(|wanted| wanted == name);
    let begins = |name: &str| {
        let is_name = |wanted: &String| workloads::find(wanted).is_some();
        names.iter().any(|wanted| !is_name(wanted) && name.starts_with(wanted.as_str()))
    };
    chosen.retain(|workload| names.is_empty() || whole(workload.name) || begins(workload.name));
    Ok(chosen)
}

fn some_contestants(names: &str) -> Result<Vec<&'static Contestant>, lexopt::Error> {
    names
        .split(',')
        .map(|name| {
            contestants::find(name).ok_or_else(|| {
                format!("there is no contestant {name} in this build (see --features peers)").into()
            })
        })
        .collect()
}
