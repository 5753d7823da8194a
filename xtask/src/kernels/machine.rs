//! Boots a kernel in the emulator, and reads what happens from its console.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Architecture;
use super::initramfs::{LIMIT_S, MARK};

/// What is booted, and where its console is kept.
pub(crate) struct Boot<'a> {
    pub(crate) image: &'a Path,
    pub(crate) initrd: &'a Path,
    pub(crate) log: &'a Path,
}

/// How a program has ended in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) program: String,
    /// `None` if the guest ended before.
    pub(crate) code: Option<i32>,
    pub(crate) took: Duration,
    /// Of a program of tests.
    pub(crate) counts: Option<Counts>,
    pub(crate) failures: Vec<String>,
    /// Why tests were left out.
    pub(crate) skipped: Vec<String>,
    /// The driver, and why it is not io_uring.
    pub(crate) driver: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
}

impl Boot<'_> {
    /// Returns the outcomes of the programs that were started. An emulated machine may hang before
    /// it has started any: it is then started again.
    pub(crate) fn run(&self, architecture: Architecture) -> Result<Vec<Outcome>> {
        for _ in 0..MOST_STARTS {
            match self.try_run(architecture)? {
                Some(outcomes) => return Ok(outcomes),
                None => println!("it does not boot within {} s", BOOT_LIMIT.as_secs()),
            }
        }
        bail!("it does not boot: {}", self.log.display());
    }

    /// `None` if it did not boot.
    fn try_run(&self, architecture: Architecture) -> Result<Option<Vec<Outcome>>> {
        let mut emulator = self.start(architecture)?;
        let console = BufReader::new(emulator.stdout.take().context("its output is piped")?);
        let mut log = File::create(self.log).with_context(|| self.log.display().to_string())?;
        let (sender, lines) = mpsc::channel();
        // Ends with the emulator.
        let reader = thread::spawn(move || {
            for line in console.split(b'\n') {
                let line = line.map(|line| String::from_utf8_lossy(&line).trim_end().to_owned());
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut outcomes = Outcomes::default();
        let boot_end = Instant::now() + BOOT_LIMIT;
        loop {
            let patience = match outcomes.has_begun() {
                // `/init` ends each program that takes longer.
                true => Duration::from_secs(2 * u64::from(LIMIT_S)),
                false => boot_end.saturating_duration_since(Instant::now()),
            };
            let line = match lines.recv_timeout(patience) {
                Ok(line) => line?,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    emulator.kill()?;
                    break;
                }
            };
            writeln!(log, "{line}")?;
            if let Some(ended) = outcomes.take(&line, Instant::now()) {
                println!("{}: {}, {} s", ended.program, ended.summary(), ended.took.as_secs());
            }
        }
        emulator.wait()?;
        reader.join().expect("the reader does not panic");
        Ok(outcomes.has_begun().then(|| outcomes.finish()))
    }

    fn start(&self, architecture: Architecture) -> Result<Child> {
        let console = architecture.console();
        // A kernel that panics ends the emulator.
        let parameters = format!("console={console} quiet panic=-1 mitigations=off");
        Command::new(architecture.emulator())
            .args(architecture.machine())
            .args(["-smp", "2", "-m", "3G", "-display", "none", "-monitor", "none"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-serial", "stdio"])
            .args(["-append", &parameters, "-kernel"])
            .args([self.image, Path::new("-initrd"), self.initrd])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", architecture.emulator()))
    }
}

/// How long a guest takes until it starts the first program, with a lot to spare.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// How often it is started.
const MOST_STARTS: u32 = 3;

impl Outcome {
    pub(crate) fn has_passed(&self) -> bool {
        self.code == Some(0)
    }

    /// In a few words.
    pub(crate) fn summary(&self) -> String {
        let counts = match self.counts {
            Some(Counts { passed, failed: 0 }) => format!("{passed} passed"),
            Some(Counts { passed, failed }) => format!("{passed} passed, {failed} FAILED"),
            None if self.has_passed() => "passed".to_owned(),
            None => "FAILED".to_owned(),
        };
        let skipped = match self.skipped.len() {
            0 => String::new(),
            count => format!(", of them {count} skipped"),
        };
        let end = match self.code {
            Some(0) | Some(LIBTEST_FAILED) => String::new(),
            Some(code) => format!(", exit code {code}"),
            None => ", did not end".to_owned(),
        };
        format!("{counts}{skipped}{end}")
    }
}

/// The exit code of a program of tests, some of which have failed.
const LIBTEST_FAILED: i32 = 101;

/// What the lines of a console say.
#[derive(Default)]
struct Outcomes {
    ended: Vec<Outcome>,
    running: Option<(Instant, Outcome)>,
}

impl Outcomes {
    /// Takes a line, which came at `now`. Returns the outcome of a program that has ended with it.
    fn take(&mut self, line: &str, now: Instant) -> Option<&Outcome> {
        if let Some(mark) = line.strip_prefix(MARK) {
            return match mark.trim().split_once(' ')? {
                ("begin", name) => {
                    let program = name.to_owned();
                    self.running = Some((now, Outcome { program, ..Outcome::default() }));
                    None
                }
                ("end", code) => {
                    let (start, mut outcome) = self.running.take()?;
                    outcome.code = code.parse().ok();
                    outcome.took = now - start;
                    self.ended.push(outcome);
                    self.ended.last()
                }
                _ => None,
            };
        }
        let (_, outcome) = self.running.as_mut()?;
        if let Some(counts) = line.strip_prefix("test result: ").and_then(counts) {
            // The last is the program's own: tests print what the processes that they start print.
            outcome.counts = Some(counts);
        } else if let Some(test) =
            line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"))
        {
            outcome.failures.push(test.to_owned());
        } else if let Some(why) = line.strip_prefix("skipped: ") {
            outcome.skipped.push(why.to_owned());
        } else if let Some(driver) = line.strip_prefix("driver: ") {
            outcome.driver = Some(driver.to_owned());
        }
        None
    }

    /// Whether a program was started.
    fn has_begun(&self) -> bool {
        self.running.is_some() || !self.ended.is_empty()
    }

    fn finish(mut self) -> Vec<Outcome> {
        self.ended.extend(self.running.map(|(_, outcome)| outcome));
        self.ended
    }
}

/// Of `ok. 12 passed; 0 failed; 1 ignored; ..`.
fn counts(result: &str) -> Option<Counts> {
    let (_, counts) = result.split_once(". ")?;
    let count = |name: &str| {
        let mut counts = counts.split("; ");
        counts.find_map(|count| count.strip_suffix(name)?.trim().parse().ok())
    };
    Some(Counts { passed: count("passed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(console: &str) -> Vec<Outcome> {
        let mut outcomes = Outcomes::default();
        console.lines().for_each(|line| {
            outcomes.take(line, Instant::now());
        });
        outcomes.finish()
    }

    #[test]
    fn a_program_of_tests_is_counted() {
        let [outcome] = &outcomes(
            "test of::the::kernel ... FAILED\n:::: begin api\ntest one ... ok\n\
             test two ... FAILED\nskipped: no IPv6\n\
             test result: FAILED. 12 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out\n\
             :::: end 101",
        )[..] else {
            panic!("not one outcome");
        };
        assert_eq!(outcome.program, "api");
        assert_eq!(outcome.failures, ["two"]);
        assert_eq!(outcome.summary(), "12 passed, 1 FAILED, of them 1 skipped");
        assert!(!outcome.has_passed());
    }

    #[test]
    fn a_program_that_the_guest_does_not_survive_has_not_passed() {
        let [first, second] = &outcomes(
            ":::: begin packet_counter\ndriver: io_uring\nlost 0\n:::: end 0\n\
             :::: begin faults\ntest one ... ok\nKernel panic",
        )[..] else {
            panic!("not two outcomes");
        };
        assert!(first.has_passed());
        assert_eq!(first.summary(), "passed");
        assert_eq!(first.driver.as_deref(), Some("io_uring"));
        assert!(!second.has_passed());
        assert_eq!(second.summary(), "FAILED, did not end");
    }
}
