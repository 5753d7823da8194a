//! Runs the tests under AddressSanitizer and LeakSanitizer.
//!
//! The sanitizers see what Rust code reads, writes and leaks. They do not see what the kernel
//! writes through a ring.

use std::collections::BTreeSet;
use std::env::consts::ARCH;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

/// Files and modules of `tests/` that run only when they are named. `examples` runs binaries that
/// are built without sanitizers, `resources` measures memory, which the sanitizer keeps on purpose,
/// and `writer_and_counter` takes seven minutes.
const NOT_BY_DEFAULT: [&str; 3] = ["examples", "resources", "writer_and_counter"];

/// Parts of names of tests that never run here. The first limits the address space, and the
/// sanitizer needs terabytes of it. The others forget a future or a waker, which is an intended
/// leak.
const LEFT_OUT: [&str; 3] = [
    "a_pool_that_does_not_fit_into_memory_names_its_setters",
    "_is_forgotten",
    "wakers_that_panic_take_no_others_with_them",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Test binaries (files or folders of `tests/`), and parts of names of tests in them. By
    /// default the unit tests and most binaries
    tests: Vec<String>,
}

impl Args {
    pub(crate) fn of_tests(tests: &[&str]) -> Self {
        Self { tests: tests.iter().map(|&test| test.to_owned()).collect() }
    }
}

pub(crate) fn run(shell: &Shell, args: &Args) -> Result<()> {
    let all = binaries(shell)?;
    let (mut binaries, names): (Vec<_>, Vec<_>) =
        args.tests.iter().cloned().partition(|test| all.contains(test));
    let mut units: &[&str] = &[];
    let mut left_out: Vec<_> = LEFT_OUT.map(str::to_owned).into();
    if binaries.is_empty() {
        units = &["--lib", "-p", "ebbtide", "-p", "ebbtide-net", "-p", "ebbtide-runtime"];
        binaries.extend(all);
    }
    if args.tests.is_empty() {
        binaries.retain(|binary| !NOT_BY_DEFAULT.contains(&binary.as_str()));
        left_out.extend(NOT_BY_DEFAULT.map(|module| format!("{module}::")));
    }
    let binaries = binaries.into_iter().flat_map(|binary| ["--test".to_owned(), binary]);
    let skipped = left_out.into_iter().flat_map(|test| ["--skip".to_owned(), test]);
    let target = format!("{ARCH}-unknown-linux-gnu");
    let options = "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1";
    cmd!(shell, "cargo +nightly test --no-fail-fast --target {target} {units...} {binaries...}")
        .arg("--")
        .args(names)
        .args(skipped)
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .env("ASAN_OPTIONS", options)
        .run()?;
    Ok(())
}

/// The files and folders of `tests/` that are test binaries.
fn binaries(shell: &Shell) -> Result<BTreeSet<String>> {
    let mut binaries = BTreeSet::new();
    for path in shell.read_dir("tests")? {
        let is_file = path.extension().is_some_and(|extension| extension == "rs");
        if is_file || shell.path_exists(path.join("main.rs")) {
            let name = path.file_stem().context("a test file has a name")?;
            binaries.insert(name.to_string_lossy().into_owned());
        }
    }
    Ok(binaries)
}
