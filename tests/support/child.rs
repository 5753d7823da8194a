//! A test in a process of its own: for what belongs to a whole process (limits, signals, the
//! environment).

#![allow(dead_code, reason = "every test binary uses a part of it")]
#![allow(unreachable_pub, reason = "it is a module of each test binary")]

use std::io;
use std::process::Command;

/// Runs `body` in a process of its own: this test, started again, alone.
pub fn in_a_child(test: &str, body: impl FnOnce()) {
    in_a_child_with(test, &[], body);
}

/// As `in_a_child`, with more in the environment.
pub fn in_a_child_with(test: &str, environment: &[(&str, &str)], body: impl FnOnce()) {
    let prepare = |child: &mut Command| {
        child.envs(environment.iter().copied());
    };
    in_a_prepared_child(test, prepare, body).expect("it can be started");
}

/// As `in_a_child`; `prepare` may do with the process what it likes.
///
/// # Errors
///
/// It cannot be started so.
pub fn in_a_prepared_child(
    test: &str,
    prepare: impl FnOnce(&mut Command),
    body: impl FnOnce(),
) -> io::Result<()> {
    const CHILD: &str = "EBBTIDE_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        body();
        return Ok(());
    }
    let mut child = Command::new(std::env::current_exe().expect("the binary has a path"));
    child.args([test, "--exact", "--nocapture", "--include-ignored"]).env(CHILD, "");
    prepare(&mut child);
    let output = child.output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let passed = output.status.success() && said.contains("1 passed");
    assert!(passed, "{}: {said}", output.status);
    let prefixes = ["skipped", "note: ", "measured"];
    let is_for_us = |line: &&str| prefixes.iter().any(|prefix| line.starts_with(prefix));
    said.lines().filter(is_for_us).for_each(|line| println!("{line}"));
    Ok(())
}
