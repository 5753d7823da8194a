//! [`Checkout`]: a copy of the last commit, in which mutations are tried.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::verdict::TestRun;

/// How many seconds a test may take. The slowest takes 5 on an idle machine. In most tests, a
/// scenario that hangs fails after 60.
const PATIENCE_S: u32 = 150;

/// The exit codes of `timeout` if its command took too long: ended, or killed.
const TIMED_OUT: [i32; 2] = [124, 137];

pub(crate) struct Checkout {
    /// Stays in `target/mutations/` with everything that was built, so that the next run compiles
    /// less.
    folder: PathBuf,
    patience_s: u32,
}

/// How a command ended, and its output.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
}

impl Checkout {
    /// Makes a clone and not a copy of the files. Files that have not changed since the last run
    /// keep their times, and are not compiled again.
    pub(crate) fn of_head(root: &Path) -> Result<Self> {
        let patience_s = match env::var("MUTATION_PATIENCE") {
            Ok(seconds) => {
                seconds.parse().context("MUTATION_PATIENCE must be a number of seconds")?
            }
            Err(_) => PATIENCE_S,
        };
        let folder = root.join("target/mutations");
        fs::create_dir_all(&folder)?;
        let checkout = Self { folder, patience_s };
        let shell = Shell::new()?;
        let copy = checkout.root();
        shell.change_dir(root);
        let changed = cmd!(shell, "git status --porcelain --untracked-files=no").quiet().read()?;
        if !changed.is_empty() {
            println!("changes that are not committed are not tried");
        }
        if !copy.join(".git").is_dir() {
            cmd!(shell, "git clone --quiet --no-checkout . {copy}").quiet().run()?;
        }
        shell.change_dir(&copy);
        // By its path, because a copy that was moved with the repository would fetch from the old
        // place.
        cmd!(shell, "git fetch --quiet {root} HEAD").quiet().run()?;
        cmd!(shell, "git checkout --quiet --force --detach FETCH_HEAD").quiet().run()?;
        cmd!(shell, "git clean --quiet --force -d").quiet().run()?;
        Ok(checkout)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("copy")
    }

    /// Runs a command. When the patience is exhausted, stops it and everything that it started.
    pub(crate) fn run_with_patience(&self, command: &Command) -> Result<TestRun> {
        let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let mut limited = Command::new("timeout");
        limited.arg("--kill-after=5").arg(self.patience_s.to_string());
        limited.arg(command.get_program()).args(command.get_args()).envs(variables);
        let Ended { status, output } = self.run(limited)?;
        Ok(match status.code() {
            Some(0) => TestRun::Passed(output),
            Some(code) if TIMED_OUT.contains(&code) => TestRun::Hung,
            _ => TestRun::Failed(output),
        })
    }

    /// Runs a command. Its output goes to a file, because a process that a test leaves behind would
    /// keep a pipe open.
    pub(crate) fn run(&self, mut command: Command) -> Result<Ended> {
        let path = self.folder.join("log");
        let log = File::create(&path)?;
        let status = command
            .current_dir(self.root())
            .env("CARGO_TARGET_DIR", self.folder.join("target"))
            // Most of the time is spent on compiling.
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_PROFILE_TEST_DEBUG", "0")
            .env("CARGO_PROFILE_TEST_OPT_LEVEL", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        let output = String::from_utf8_lossy(&fs::read(path)?).into_owned();
        Ok(Ended { status, output })
    }
}
