//! [`Entrant`]: who takes part in the comparison of a workload.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::contestants::Contestant;
use crate::metric::Metric;
use crate::workloads::Workload;

/// The contestant that is run of another build.
const OF_OTHER_BUILD: &str = "ebbtide";

/// The name of its row.
pub(super) const AGAINST: &str = "against";

/// A contestant, and the build of this program that has it.
#[derive(Clone, Copy)]
pub(super) struct Entrant<'a> {
    /// The name of its row.
    pub(super) name: &'static str,
    contestant: &'static str,
    build: &'a Path,
}

impl Entrant<'_> {
    /// Runs one measurement in a fresh process. Between builds, this is the protocol: the arguments
    /// `measure WORKLOAD CONTESTANT SCALE`, and the metrics in JSON.
    pub(super) fn measure(self, workload: &Workload, scale: f64) -> io::Result<Vec<Metric>> {
        let scale = scale.to_string();
        output_of(self.build, ["measure", workload.name, self.contestant, &scale])
    }
}

/// This program, and another build of it to compare it with.
pub(super) struct Builds {
    own: PathBuf,
    other: Option<OtherBuild>,
}

struct OtherBuild {
    path: PathBuf,
    workloads: Vec<Listed>,
}

/// A workload as a build lists it.
#[derive(Deserialize)]
struct Listed {
    workload: String,
    metric: String,
    contestants: Vec<String>,
}

impl Builds {
    pub(super) fn find(against: Option<&Path>) -> io::Result<Self> {
        let other = against.map(OtherBuild::ask).transpose()?;
        Ok(Self { own: std::env::current_exe()?, other })
    }

    /// The contestants, with the one of the other build next to its namesake.
    pub(super) fn entrants(
        &self,
        workload: &Workload,
        contestants: &[&'static Contestant],
    ) -> Vec<Entrant<'_>> {
        let own = |name| Entrant { name, contestant: name, build: &self.own };
        let mut entrants: Vec<_> = contestants.iter().map(|offer| own(offer.name)).collect();
        if let Some(other) = self.other.as_ref().filter(|other| other.offers(workload)) {
            let newer = entrants.iter().position(|entrant| entrant.name == OF_OTHER_BUILD);
            let place = newer.map_or(entrants.len(), |index| index + 1);
            let (name, contestant) = (AGAINST, OF_OTHER_BUILD);
            entrants.insert(place, Entrant { name, contestant, build: &other.path });
        }
        entrants
    }
}

impl OtherBuild {
    fn ask(path: &Path) -> io::Result<Self> {
        let context = |error: io::Error| {
            let reason = format!("{} is no build of this program: {error}", path.display());
            io::Error::new(error.kind(), reason)
        };
        // A bare name would be looked for in PATH.
        let path = path.canonicalize().map_err(context)?;
        let workloads = output_of(&path, ["list", "--json"]).map_err(context)?;
        Ok(Self { path, workloads })
    }

    fn offers(&self, workload: &Workload) -> bool {
        self.workloads.iter().any(|listed| {
            listed.workload == workload.name
                && listed.metric == workload.metric
                && listed.contestants.iter().any(|name| name == OF_OTHER_BUILD)
        })
    }
}

/// What a build prints, which is JSON.
fn output_of<T: DeserializeOwned>(
    build: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> io::Result<T> {
    let output = Command::new(build).args(arguments).output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{}: {}", output.status, errors.trim())));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
