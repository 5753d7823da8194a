//! Runs Miri over the pure parts, and over small programs of the model.
//!
//! Miri has no io_uring. `cfg(not(miri))` leaves out tests that need a kernel.

use std::path::Path;

use anyhow::Result;

use crate::jobs::{self, Job, processors};
use crate::model;

/// The clock and the addresses of the host are visible. Provenance is permissive, because the
/// kernel returns pointers as numbers, in the user data of a completion.
pub(crate) const FLAGS: (&str, &str) =
    ("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-permissive-provenance");

pub(crate) fn run(root: &Path) -> Result<()> {
    let shipped = [FLAGS];
    let model = [FLAGS, model::CFG];
    // Runs first, so that the others do not build the same standard library at the same time.
    let setup = job("setup", "setup", &shipped);
    // The longest first.
    let tests = [
        job("net", "test -p ebbtide-net --lib", &shipped),
        job("model", "test -p ebbtide-model --test seeds", &model),
        job("runtime", "test -p ebbtide-runtime --lib", &shipped),
    ];
    let logs = root.join("target/miri/logs");
    jobs::run_all(root, &logs, &[setup], 1)?;
    for output in jobs::run_all(root, &logs, &tests, processors())? {
        output.lines().filter(|line| line.starts_with("test result")).for_each(|l| println!("{l}"));
    }
    Ok(())
}

fn job<'a>(name: &str, command: &str, variables: &'a [(&'a str, &'a str)]) -> Job<'a> {
    let words = ["+nightly", "miri"].into_iter().chain(command.split(' '));
    Job { name: name.to_owned(), arguments: words.map(str::to_owned).collect(), variables }
}
