//! The commands for developers: `cargo xtask COMMAND`.

mod asan;
mod ci;
mod fuzz;
mod instructions;
mod jobs;
mod kernels;
mod minimum_rust;
mod miri;
mod model;
mod mutations;
mod packages;
mod soak;
mod without_io_uring;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use xshell::Shell;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Commands for developers of Ebbtide")]
enum Command {
    /// Run everything that a change has to pass
    Ci(ci::Args),
    /// Take out each safety step in turn, and check that its test fails
    Mutations(mutations::Args),
    /// Run Miri over the pure parts, and over small programs of the model
    Miri,
    /// Run tests under AddressSanitizer and LeakSanitizer
    Asan(asan::Args),
    /// Run each fuzz target for some seconds; needs nightly and cargo-fuzz
    Fuzz(fuzz::Args),
    /// Count the instructions of an echo and of a datagram; needs valgrind
    Instructions,
    /// Run random programs on the model, a kernel in memory
    Model(model::Args),
    /// Run runtimes that open, drain and drop sockets under load, and account for every datagram
    Soak(soak::Args),
    /// Boot kernels of Debian in an emulator, and run the tests on each; needs root for apt-get
    Kernels(kernels::Args),
    /// Run a command with io_uring refused, as in a container with the default seccomp profile
    WithoutIoUring(without_io_uring::Args),
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // The backtrace of anyhow is not printed, because each error names what failed.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let root = root.context("xtask is a folder of the repository")?;
    let shell = Shell::new()?;
    shell.change_dir(root);
    match command {
        Command::Ci(args) => ci::run(&shell, root, &args),
        Command::Mutations(args) => mutations::run(root, &args),
        Command::Miri => miri::run(root),
        Command::Asan(args) => asan::run(&shell, &args),
        Command::Fuzz(args) => fuzz::run(&shell, root, &args),
        Command::Instructions => instructions::run(&shell, root),
        Command::Model(args) => model::run(&shell, root, &args),
        Command::Soak(args) => soak::run(&shell, &args),
        Command::Kernels(args) => kernels::run(&shell, root, &args),
        // Runs in the directory of the caller.
        Command::WithoutIoUring(args) => match without_io_uring::exec(&args)? {},
    }
}
