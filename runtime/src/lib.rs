//! The runtime under [`ebbtide`](https://docs.rs/ebbtide): tasks, time, the io_uring and epoll
//! drivers, the buffer pool and the drain. It knows no socket; those are in `ebbtide-net`.
//!
//! Programs use the crate `ebbtide`. [`Port`], [`Drainable`] and the modules [`driver`] and
//! [`buffer`] are for crates that bring kinds of sockets.
//!
//! Start reading at `runtime.rs`.

#![warn(clippy::unwrap_used)]
// What does not fit is an error, or the largest that fits; nothing wraps on its way to the kernel.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)
)]

mod blocking;
pub mod buffer;
mod builder;
mod drain;
pub mod driver;
mod handle;
mod in_flight;
pub mod limits;
mod metrics;
#[cfg(ebbtide_model)]
#[doc(hidden)]
pub mod model;
mod panics;
mod port;
mod process;
mod retry;
mod runtime;
pub mod signal;
mod sync;
pub mod task;
pub mod time;
mod turn_end;
mod under_way;

pub use blocking::spawn_blocking;
pub use builder::Builder;
pub use drain::{
    Drain, DrainError, DrainKey, DrainOutcome, DrainReport, Drainable, Draining, Exit, ExitHold,
    Member, Pass, Presence, Quiesced, ReadProgress, Receivers, SocketStats, drain, drain_with,
    hold_exit,
};
pub use driver::{DriverChoice as Driver, RunningDriver, StartCause, StartError, TaskRun};
pub use handle::Handle;
pub use in_flight::InFlight;
pub use metrics::Metrics;
pub use port::Port;
pub use retry::Retry;
pub use runtime::{Runtime, run, spawn};
pub use task::{JoinError, JoinHandle};
pub use turn_end::{Again, AtTurnEnd};
