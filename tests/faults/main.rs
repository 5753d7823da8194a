//! Faults: what the kernel may refuse, interrupt or cut short, it does, at every step of a program
//! in turn. Nothing is lost or doubled, or the error is clear; nothing hangs; nothing is written
//! after it was freed.
//!
//! The short form takes a sample of the steps. All of them, a few minutes:
//!
//! ```text
//! cargo test --release --test faults -- --ignored --nocapture
//! ```
//!
//! A failure names the fault, which `program::run` repeats with the same seed.

#[path = "../support/child.rs"]
mod child;
#[path = "../support/faults.rs"]
mod faults;
#[path = "../support/seccomp.rs"]
mod seccomp;
#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod enters;
mod forked;
mod limits;
mod other_calls;
mod program;
mod signals;
mod start;
mod stopped;
