//! Runs the soak, which is a separate crate.

use anyhow::Result;
use xshell::{Shell, cmd};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// The arguments of the soak. `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Args {
    pub(crate) fn of_minutes(minutes: &str) -> Self {
        Self { arguments: vec!["--minutes".to_owned(), minutes.to_owned()] }
    }
}

pub(crate) fn run(shell: &Shell, args: &Args) -> Result<()> {
    let arguments = &args.arguments;
    cmd!(shell, "cargo run --release --quiet --package ebbtide-soak -- {arguments...}").run()?;
    Ok(())
}
