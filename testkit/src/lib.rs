//! What Ebbtide's integration tests share: the shapes of the driver, numbered datagrams, separate
//! processes for tests, faults of the kernel, and safe functions for the system calls that tests
//! make.
//!
//! Not published. All unsafe code of the tests is here, so `tests/` has none.

mod address;
pub mod child;
pub mod descriptor;
pub mod fault;
pub mod fork;
pub mod leaks;
pub mod namespace;
mod numbered;
pub mod report;
pub mod rights;
pub mod seccomp;
mod shape;
pub mod signal;
pub mod socket;
mod transport;
mod wait;
mod watchdog;

pub use address::{bind_full_path, path_of, unique_name};
pub use numbered::{Ledger, numbered, parse};
pub use shape::Shape;
pub use transport::Transport;
pub use wait::{patient, run, turns, until};
pub use watchdog::Watchdog;

/// The result of a system call that returns a negative number on failure.
fn checked(result: libc::c_int) -> std::io::Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
