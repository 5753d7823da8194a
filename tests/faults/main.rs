//! Faults: what the kernel may refuse, interrupt or cut short, it does, at every step of a program
//! in turn; and what peers may send that means no good. Nothing is lost or doubled, or the error is
//! clear; nothing hangs; nothing is written after it was freed.
//!
//! The short form takes a sample of the steps. All of them, a few minutes:
//!
//! ```text
//! cargo test --release --test faults -- --ignored --nocapture
//! ```
//!
//! A failure names the fault, which `program::run` repeats with the same seed.

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

/// The system calls by which the C library carries out epoll_wait(3) and poll(3).
mod polling {
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) use libc::{SYS_epoll_pwait as EPOLL_WAIT, SYS_ppoll as POLL};
    #[cfg(target_arch = "x86_64")]
    pub(crate) use libc::{SYS_epoll_wait as EPOLL_WAIT, SYS_poll as POLL};
}
