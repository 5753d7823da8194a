//! Tests in a separate process, for what belongs to a whole process: limits, signals, the
//! environment, the number of descriptors.
//!
//! The process is the test binary, started again to run one test. The name of that test is the name
//! of the function that contains `body`, so that function must be the test itself. Otherwise no
//! test runs in the process, and the test that started it fails.

use std::any::type_name;
use std::io;
use std::os::fd::BorrowedFd;
use std::process::{Command, ExitStatus};

use parking_lot::{RwLock, RwLockReadGuard};

use crate::descriptor::pass;

/// Set in the environment of a process that was started for a test.
const CHILD: &str = "EBBTIDE_TEST_CHILD";

/// Runs `body` in a separate process.
pub fn in_a_child<F: FnOnce()>(body: F) {
    in_a_child_with(&[], body);
}

/// Runs `body` in a separate process, with additional environment variables.
pub fn in_a_child_with<F: FnOnce()>(environment: &[(&str, &str)], body: F) {
    let prepare = |child: &mut Command| {
        child.envs(environment.iter().copied());
    };
    start(test_of::<F>(), Beside::Others, prepare, body).expect("the test binary can be started");
}

/// What runs at the same time as a process that was started for a test.
#[derive(Clone, Copy, Debug)]
pub enum Beside {
    /// Other tests, and their processes.
    Others,
    /// No other process that a test of this binary has started.
    Nothing,
}

/// Runs `body` in a separate process that runs only `test`. `prepare` may change how the process is
/// started.
///
/// # Errors
///
/// The process cannot be started that way.
pub(crate) fn start(
    test: &str,
    beside: Beside,
    prepare: impl FnOnce(&mut Command),
    body: impl FnOnce(),
) -> io::Result<()> {
    if is_child() {
        body();
        return Ok(());
    }
    let mut child = again(test);
    prepare(&mut child);
    End::of(&mut child, beside)?.expect_passed();
    Ok(())
}

/// Runs `body` with [`ebbtide::run`] in a separate process.
pub fn run_in_a_child(body: impl Future<Output = io::Result<()>>) {
    if let Some(end) = end_of_child(body) {
        end.expect_passed();
    }
}

/// Runs `body` with [`ebbtide::run`] in a separate process. Returns how the process ended, for the
/// caller to judge. Returns `None` in the process itself.
pub fn end_of_child<F: Future<Output = io::Result<()>>>(body: F) -> Option<End> {
    if is_child() {
        ebbtide::run(body).expect("the run succeeds");
        return None;
    }
    let mut child = again(test_of::<F>());
    Some(End::of(&mut child, Beside::Others).expect("the test binary can be started"))
}

/// Runs `test` of this binary as a socket-activated program, in a separate process. That process
/// gets `sockets` as its descriptors 3 and 4. Its environment announces `announced` sockets, of
/// which the first is named `statsd`.
pub fn activate(test: &str, sockets: [BorrowedFd<'_>; 2], announced: usize) {
    // The shell sets LISTEN_PID, which is known only after the fork.
    let command = "export LISTEN_PID=$$; exec \"$0\" \"$@\"";
    let test = again(test);
    let mut child = Command::new("sh");
    child.args(["-c", command]).arg(test.get_program()).args(test.get_args());
    child.env(CHILD, "").env("LISTEN_FDS", announced.to_string()).env("LISTEN_FDNAMES", "statsd:");
    pass(&mut child, sockets);
    End::of(&mut child, Beside::Others).expect("there is a shell").expect_passed();
}

/// Locked for reading while a process runs beside others, for writing while one runs alone.
static RUNNING: RwLock<()> = RwLock::new(());

/// Blocks the processes that run beside nothing, while a test runs a program that it starts
/// directly.
pub fn beside_others() -> RwLockReadGuard<'static, ()> {
    // A test may start one program while it holds another.
    RUNNING.read_recursive()
}

/// Whether this process was started for a test.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// The name of the test in which a closure or a future of type `F` is written.
pub(crate) fn test_of<F>() -> &'static str {
    let name = type_name::<F>();
    let (_the_binary, name) = name.split_once("::").expect("the name has a crate");
    name.split("::{{").next().expect("a split has a first part")
}

/// A command that runs only `test` of this binary, with the environment of a child.
pub fn again(test: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().expect("the test binary has a path"));
    child.args([test, "--exact", "--nocapture", "--include-ignored"]).env(CHILD, "");
    child
}

/// How a process ended.
#[derive(Debug)]
pub struct End {
    /// Its exit code or signal.
    pub status: ExitStatus,
    /// What it printed.
    pub output: String,
}

impl End {
    fn of(child: &mut Command, beside: Beside) -> io::Result<Self> {
        let (_others, _alone) = match beside {
            Beside::Others => (Some(beside_others()), None),
            Beside::Nothing => (None, Some(RUNNING.write())),
        };
        let output = child.output()?;
        let (stdout, stderr) = (&output.stdout, &output.stderr);
        let printed = String::from_utf8_lossy(stdout) + String::from_utf8_lossy(stderr);
        Ok(Self { status: output.status, output: printed.into_owned() })
    }

    /// Fails unless the test passed in that process. Repeats the lines that are meant for the
    /// reader of the whole run.
    fn expect_passed(&self) {
        let Self { status, output } = self;
        assert!(status.success() && output.contains("1 passed"), "{status}: {output}");
        let prefixes = ["skipped", "note: ", "measured"];
        let is_for_us = |line: &&str| prefixes.iter().any(|prefix| line.starts_with(prefix));
        output.lines().filter(is_for_us).for_each(|line| println!("{line}"));
    }
}
