//! The commands of a developer: `cargo xtask COMMAND`.

mod soak;
mod without_io_uring;

use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;
use xshell::Shell;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The commands of a developer of Ebbtide")]
enum Command {
    /// Run runtimes that open, drain and drop sockets under load; every datagram is accounted for
    Soak(soak::Args),
    /// Run a command with io_uring refused, as in a container with the default seccomp profile
    WithoutIoUring(without_io_uring::Args),
}

fn main() -> Result<()> {
    let command = Command::parse();
    if let Command::WithoutIoUring(args) = &command {
        // In the caller's directory.
        match without_io_uring::exec(args)? {}
    }
    let shell = Shell::new()?;
    shell.change_dir(root()?);
    match command {
        Command::Soak(args) => soak::run(&shell, &args),
        Command::WithoutIoUring(_) => unreachable!("it has replaced this process"),
    }
}

/// The root of the repository.
fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is a folder of the repository")
}
