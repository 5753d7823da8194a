//! Runs everything that a change has to pass.

use std::env;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::{asan, fuzz, instructions, minimum_rust, miri, model, mutations, packages, soak};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only the sections whose name contains one of these words. By default all
    words: Vec<String>,
}

struct Section {
    name: &'static str,
    run: fn(&Shell, &Path) -> Result<()>,
}

/// Sections that are quick and fail often come first. The tests run without `--cfg ebbtide_model`,
/// because nobody ships that. What exists only with it has its own sections.
const SECTIONS: &[Section] = &[
    Section { name: "format", run: format },
    Section { name: "clippy", run: clippy },
    Section { name: "the minimum Rust version", run: minimum_rust::run },
    Section { name: "documentation", run: documentation },
    Section { name: "the packages to publish", run: packages::run },
    Section { name: "tests and doctests", run: tests },
    Section { name: "tests of the tools", run: tests_of_tools },
    Section { name: "tests of the model, and unit tests that run on it", run: model_tests },
    Section { name: "loom: threads in every interleaving", run: loom },
    Section { name: "the list of mutations fits the code", run: mutations },
    Section { name: "the first command of the README", run: first_command },
    Section { name: "a short comparison", run: comparison },
    Section { name: "instructions of an echo and of a datagram", run: count_instructions },
    Section { name: "half a minute of soak", run: half_a_minute_of_soak },
    Section { name: "random programs on the model", run: seeds },
    Section { name: "tests and doctests again, without io_uring", run: without_io_uring },
    Section { name: "the first command, without io_uring", run: first_command_without_io_uring },
    Section { name: "Miri", run: miri },
    Section { name: "AddressSanitizer and LeakSanitizer", run: asan },
    Section { name: "fuzz targets, ten seconds each", run: fuzz },
];

pub(crate) fn run(shell: &Shell, root: &Path, args: &Args) -> Result<()> {
    let start = Instant::now();
    let is_chosen = |section: &&Section| {
        args.words.is_empty() || args.words.iter().any(|word| section.name.contains(word.as_str()))
    };
    for section in SECTIONS.iter().filter(is_chosen) {
        println!("\n== {} ({} s so far)", section.name, start.elapsed().as_secs());
        (section.run)(shell, root)?;
    }
    println!("\n== passed ({} s)", start.elapsed().as_secs());
    Ok(())
}

fn format(shell: &Shell, _: &Path) -> Result<()> {
    cmd!(shell, "cargo fmt --all --check").run()?;
    Ok(())
}

fn clippy(shell: &Shell, _: &Path) -> Result<()> {
    cmd!(shell, "cargo clippy --workspace --all-targets -- -D warnings").run()?;
    cmd!(shell, "cargo clippy -p ebbtide-runtime --features tracing -- -D warnings").run()?;
    let (name, flags) = model::CFG;
    cmd!(shell, "cargo clippy -p ebbtide-model -p ebbtide-net -p ebbtide-runtime --all-targets")
        .args(["--", "-D", "warnings"])
        .env(name, flags)
        .run()?;
    Ok(())
}

fn documentation(shell: &Shell, _: &Path) -> Result<()> {
    let doc = cmd!(shell, "cargo doc --workspace --no-deps");
    doc.env("RUSTDOCFLAGS", "-D warnings").run()?;
    let (name, flags) = model::CFG;
    cmd!(shell, "cargo doc -p ebbtide-model --no-deps")
        .env(name, flags)
        .env("RUSTDOCFLAGS", format!("-D warnings {flags}"))
        .run()?;
    Ok(())
}

/// Tests what users get: the default members, without the features that tools of the workspace
/// enable in their dependencies. The list of mutations and the run without io_uring use the same
/// build.
fn tests(shell: &Shell, _: &Path) -> Result<()> {
    cmd!(shell, "cargo test --no-fail-fast").run()?;
    Ok(())
}

/// Tests the rest of the workspace, except `loom`, which must be optimised, and `model`, which is
/// empty. Tools need no optimisation, and `cargo xtask` has already built their dependencies.
fn tests_of_tools(shell: &Shell, _: &Path) -> Result<()> {
    let tested_elsewhere =
        ["ebbtide", "ebbtide-net", "ebbtide-runtime", "ebbtide-loom", "ebbtide-model"];
    let excluded = tested_elsewhere.map(|package| ["--exclude", package]);
    cmd!(shell, "cargo test --workspace --no-fail-fast")
        .args(excluded.concat())
        .env("CARGO_PROFILE_TEST_OPT_LEVEL", "0")
        .run()?;
    Ok(())
}

/// Runs without `--test seeds`, because its programs are among the 100 000.
fn model_tests(shell: &Shell, _: &Path) -> Result<()> {
    let (name, flags) = model::CFG;
    cmd!(shell, "cargo test -p ebbtide-model -p ebbtide-net -p ebbtide-runtime --no-fail-fast")
        .args(["--lib", "--test", "conformance"])
        .env(name, flags)
        .run()?;
    Ok(())
}

fn loom(shell: &Shell, _: &Path) -> Result<()> {
    cmd!(shell, "cargo test -p ebbtide-loom --release").run()?;
    Ok(())
}

fn mutations(_: &Shell, root: &Path) -> Result<()> {
    mutations::run(root, &mutations::Args::check_all())
}

fn first_command(shell: &Shell, _: &Path) -> Result<()> {
    cmd!(shell, "cargo run --release --example packet_counter").run()?;
    Ok(())
}

fn comparison(shell: &Shell, _: &Path) -> Result<()> {
    cmd!(shell, "cargo run --release -p ebbtide-bench -- compare sink-backlog-64 echo-16 drain")
        .args(["--quick", "--rounds", "1"])
        .run()?;
    Ok(())
}

fn count_instructions(shell: &Shell, root: &Path) -> Result<()> {
    match instructions::is_available(shell)? {
        true => instructions::run(shell, root),
        false => skip("valgrind is not installed"),
    }
}

fn half_a_minute_of_soak(shell: &Shell, _: &Path) -> Result<()> {
    soak::run(shell, &soak::Args::of_minutes("0.5"))
}

fn seeds(shell: &Shell, root: &Path) -> Result<()> {
    model::run(shell, root, &model::Args::default())
}

/// Tests what users get, on epoll. The tools of the workspace do not depend on the driver.
fn without_io_uring(shell: &Shell, _: &Path) -> Result<()> {
    let xtask = env::current_exe()?;
    cmd!(shell, "{xtask} without-io-uring cargo test --no-fail-fast").run()?;
    Ok(())
}

fn first_command_without_io_uring(shell: &Shell, _: &Path) -> Result<()> {
    let xtask = env::current_exe()?;
    cmd!(shell, "{xtask} without-io-uring cargo run --release --example packet_counter").run()?;
    Ok(())
}

fn miri(shell: &Shell, root: &Path) -> Result<()> {
    match has_nightly(shell, &["miri", "--version"])? {
        true => miri::run(root),
        false => skip("Miri is not installed"),
    }
}

/// Runs the tests that hold buffers longest.
fn asan(shell: &Shell, _: &Path) -> Result<()> {
    let tests = ["lifetimes", "dropped_futures", "full_pool", "regressions"];
    match has_nightly(shell, &["--version"])? {
        true => asan::run(shell, &asan::Args::of_tests(&tests)),
        false => skip("no nightly toolchain is installed"),
    }
}

fn fuzz(shell: &Shell, root: &Path) -> Result<()> {
    match has_nightly(shell, &["fuzz", "--version"])? {
        true => fuzz::run(shell, root, &fuzz::Args::of_seconds(10)),
        false => skip("cargo-fuzz is not installed: run `cargo install cargo-fuzz`"),
    }
}

fn has_nightly(shell: &Shell, arguments: &[&str]) -> Result<bool> {
    let version = cmd!(shell, "cargo +nightly {arguments...}").quiet().ignore_status().output()?;
    Ok(version.status.success())
}

fn skip(why: &str) -> Result<()> {
    println!("skipped: {why}");
    Ok(())
}
