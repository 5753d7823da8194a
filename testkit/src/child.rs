//! A test in a process of its own: for what belongs to a whole process (limits, signals, the
//! environment, the count of its descriptors).
//!
//! The process is the test binary, started again with the name of the test alone. The name is that
//! of the function in which `body` is written, which has to be the test itself. If it is not, no
//! test runs there, and the one that started the process fails.

use std::any::type_name;
use std::io;
use std::os::fd::BorrowedFd;
use std::process::{Command, ExitStatus};

use parking_lot::{RwLock, RwLockReadGuard};

use crate::descriptor::pass;

/// Set in the environment of a process that was started for a test.
const CHILD: &str = "EBBTIDE_TEST_CHILD";

/// Runs `body` in a process of its own.
pub fn in_a_child<F: FnOnce()>(body: F) {
    in_a_child_with(&[], body);
}

/// As [`in_a_child`], with more in the environment.
pub fn in_a_child_with<F: FnOnce()>(environment: &[(&str, &str)], body: F) {
    let prepare = |child: &mut Command| {
        child.envs(environment.iter().copied());
    };
    start(test_of::<F>(), Beside::Others, prepare, body).expect("it can be started");
}

/// What runs at the same time as a process that was started for a test.
#[derive(Clone, Copy, Debug)]
pub enum Beside {
    /// Other tests, and processes of theirs.
    Others,
    /// No other process of a test of this binary.
    Nothing,
}

/// Runs `body` in a process of its own that runs `test` alone; `prepare` may change how it is
/// started.
///
/// # Errors
///
/// It cannot be started so.
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

/// Runs `body` on a runtime in a process of its own, by [`ebbtide::run`].
pub fn run_in_a_child(body: impl Future<Output = io::Result<()>>) {
    if let Some(end) = end_of_child(body) {
        end.expect_passed();
    }
}

/// As [`run_in_a_child`], and returns how the process ended, which is for the caller to judge.
/// `None` in the process itself.
pub fn end_of_child<F: Future<Output = io::Result<()>>>(body: F) -> Option<End> {
    if is_child() {
        ebbtide::run(body).expect("nothing went wrong");
        return None;
    }
    let mut child = again(test_of::<F>());
    Some(End::of(&mut child, Beside::Others).expect("it can be started"))
}

/// Runs `test` of this binary as a socket-activated program: in a process of its own that has
/// `sockets` as its descriptors 3 and 4, and in whose environment `announced` are announced, the
/// first as `statsd`.
pub fn activate(test: &str, sockets: [BorrowedFd<'_>; 2], announced: usize) {
    // The shell says LISTEN_PID, which is known only after the fork.
    let command = "export LISTEN_PID=$$; exec \"$0\" \"$@\"";
    let test = again(test);
    let mut child = Command::new("sh");
    child.args(["-c", command]).arg(test.get_program()).args(test.get_args());
    child.env(CHILD, "").env("LISTEN_FDS", announced.to_string()).env("LISTEN_FDNAMES", "statsd:");
    pass(&mut child, sockets);
    End::of(&mut child, Beside::Others).expect("there is a shell").expect_passed();
}

/// Held for reading while a process runs beside others, and for writing while one runs alone.
static RUNNING: RwLock<()> = RwLock::new(());

/// Keeps the processes that run beside nothing waiting, while a test runs a program that it starts
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
    let (_the_binary, name) = name.split_once("::").expect("it is in a crate");
    name.split("::{{").next().expect("there is a first part")
}

/// `test` of this binary, without any other, with the environment of a child.
pub fn again(test: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().expect("the binary has a path"));
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

    /// Fails unless the test passed there. Repeats the lines that are meant for whoever reads the
    /// output of the whole run.
    fn expect_passed(&self) {
        let Self { status, output } = self;
        assert!(status.success() && output.contains("1 passed"), "{status}: {output}");
        let prefixes = ["skipped", "note: ", "measured"];
        let is_for_us = |line: &&str| prefixes.iter().any(|prefix| line.starts_with(prefix));
        output.lines().filter(is_for_us).for_each(|line| println!("{line}"));
    }
}
