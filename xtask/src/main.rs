//! The commands of a developer: `cargo xtask COMMAND`.

mod mutations;
mod soak;
mod without_io_uring;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use xshell::Shell;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The commands of a developer of Ebbtide")]
enum Command {
    /// Take out each safety step in turn: does its test fail?
    Mutations(mutations::Args),
    /// Run runtimes that open, drain and drop sockets under load: every datagram has to be
    /// accounted for
    Soak(soak::Args),
    /// Run a command with io_uring refused, as in a container with the default seccomp profile
    WithoutIoUring(without_io_uring::Args),
}

fn main() -> ExitCode {
    // Without the backtrace of anyhow: each error names what failed.
    run(Command::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let root = root.context("xtask is a folder of the repository")?;
    let shell = Shell::new()?;
    shell.change_dir(root);
    match command {
        Command::Mutations(args) => return mutations::run(root, &args),
        Command::Soak(args) => soak::run(&shell, &args)?,
        // In the directory of the caller.
        Command::WithoutIoUring(args) => match without_io_uring::exec(&args)? {},
    }
    Ok(ExitCode::SUCCESS)
}
