//! Runs Miri over the pure parts, and over small programs of the model.
//!
//! Miri has no io_uring: tests that need a kernel are left out by `cfg(not(miri))`.

use std::path::Path;

use anyhow::Result;

use crate::jobs::{self, Job, processors};
use crate::model;

/// The clock and the addresses of the host are visible. Provenance is permissive because the kernel
/// returns pointers as numbers, in the user data of a completion.
pub(crate) const FLAGS: (&str, &str) =
    ("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-permissive-provenance");

pub(crate) fn run(root: &Path) -> Result<()> {
    let shipped = [FLAGS];
    let model = [FLAGS, model::CFG];
    let job = |name: &str, arguments: &[&str], variables| Job {
        name: name.to_owned(),
        arguments: ["+nightly", "miri", "test"]
            .iter()
            .chain(arguments)
            .map(|&a| a.into())
            .collect(),
        variables,
    };
    // The longest first.
    let jobs = [
        job("net", &["-p", "ebbtide-net", "--lib"], &shipped[..]),
        job("model", &["-p", "ebbtide-model", "--test", "seeds"], &model[..]),
        job("runtime", &["-p", "ebbtide-runtime", "--lib"], &shipped[..]),
    ];
    let logs = root.join("target/miri/logs");
    for output in jobs::run_all(root, &logs, &jobs, processors())? {
        output.lines().filter(|line| line.starts_with("test result")).for_each(|l| println!("{l}"));
    }
    Ok(())
}
