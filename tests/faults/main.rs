//! Faults. At every step of a program in turn, the kernel refuses, interrupts or cuts short what it
//! may. Peers send hostile input. Nothing is lost or duplicated, or the error is clear. Nothing
//! hangs, and nothing is written after it was freed.
//!
//! The short form tries a sample of the steps. All steps take a few minutes:
//!
//! ```text
//! cargo test --release --test faults -- --ignored --nocapture
//! ```
//!
//! A failure prints the fault. `program::run` repeats it with the same seed.

mod enters;
mod forked;
mod hostile_input;
mod limits;
mod other_calls;
mod program;
mod refused_start;
mod signals;
mod start;
mod stopped;
