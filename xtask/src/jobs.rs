//! [`Job`]: a command whose output goes to a file, so that several can run at the same time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

pub(crate) struct Job<'a> {
    /// Also the name of its log.
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) variables: &'a [(&'a str, &'a str)],
}

impl Job<'_> {
    /// Runs `cargo` with the job's arguments, and returns the output. If it fails, prints the
    /// output as well.
    pub(crate) fn run(&self, root: &Path, logs: &Path) -> Result<String> {
        let start = Instant::now();
        let path = self.log(logs);
        let log = File::create(&path).with_context(|| path.display().to_string())?;
        let status = Command::new("cargo")
            .args(&self.arguments)
            .envs(self.variables.iter().copied())
            .current_dir(root)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .context("cargo cannot be started")?;
        let output = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        if !status.success() {
            println!("{output}");
        }
        ensure!(status.success(), "{} failed: {status}, {}", self.name, path.display());
        println!("{}: done in {} s", self.name, start.elapsed().as_secs());
        Ok(output)
    }

    fn log(&self, logs: &Path) -> PathBuf {
        logs.join(&self.name).with_extension("log")
    }
}

/// Runs the jobs, at most `at_a_time` at once. Returns their outputs in order or, when all have
/// ended, the first error.
pub(crate) fn run_all(
    root: &Path,
    logs: &Path,
    jobs: &[Job<'_>],
    at_a_time: usize,
) -> Result<Vec<String>> {
    fs::create_dir_all(logs)?;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(index) else { return done };
            done.push((index, job.run(root, logs)));
        }
    };
    let mut outputs: Vec<(usize, Result<String>)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..at_a_time).map(|_| scope.spawn(work)).collect();
        let done = threads.into_iter().map(|thread| thread.join().expect("a job does not panic"));
        done.flatten().collect()
    });
    outputs.sort_by_key(|&(index, _)| index);
    outputs.into_iter().map(|(_, output)| output).collect()
}

pub(crate) fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
