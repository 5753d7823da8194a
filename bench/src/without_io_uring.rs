//! Runs a program with `io_uring_setup` refused by a seccomp filter, which it and all its children
//! inherit.

#[path = "../../tests/support/seccomp.rs"]
mod seccomp;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Becomes `program`; returns only if that fails.
pub(crate) fn exec(program: &str, arguments: &[&str]) -> io::Error {
    match seccomp::refuse(libc::SYS_io_uring_setup, 0, 0..=u32::MAX, libc::EPERM) {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    }
}
