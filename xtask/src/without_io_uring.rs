//! Runs a command with `io_uring_setup` refused, like in a container whose seccomp profile refuses
//! io_uring. The filter cannot be removed, and all children of the command inherit it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::env::consts::ARCH;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Replaces this process with the command. Returns only if that fails.
pub(crate) fn exec(args: &Args) -> Result<Infallible> {
    refuse_io_uring().context("no seccomp filter can be set")?;
    let (program, arguments) = args.command.split_first().expect("clap requires a program");
    let error = Command::new(program).args(arguments).exec();
    Err(anyhow!(error).context(format!("{} cannot be started", program.display())))
}

/// Makes every call of `io_uring_setup` fail with `EPERM`, on this thread and its children.
fn refuse_io_uring() -> Result<()> {
    // An empty list of rules: the call is refused with any arguments.
    let refused = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
    let errno = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(refused, SeccompAction::Allow, errno, ARCH.try_into()?)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(())
}
