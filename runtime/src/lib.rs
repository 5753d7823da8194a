//! The runtime under [`ebbtide`](https://docs.rs/ebbtide): tasks, time, the io_uring driver, the
//! buffer pool and the drain. It knows no socket; those are in `ebbtide-net`.
//!
//! Programs use the crate `ebbtide`. The modules [`driver`] and [`buffer`] and the items marked as
//! such are for crates that bring further kinds of sockets.
//!
//! Start reading at `runtime.rs`.

#![warn(clippy::unwrap_used)]

mod blocking;
pub mod buffer;
mod builder;
mod drain;
pub mod driver;
mod handle;
pub mod limits;
mod membarrier;
mod metrics;
mod runtime;
pub mod signal;
pub mod task;
pub mod time;

pub use blocking::spawn_blocking;
pub use builder::Builder;
pub use drain::{
    Drain, DrainKey, DrainOutcome, DrainReport, Drainable, Draining, ReadProgress, SocketStats,
    drain, drain_with,
};
pub use driver::{StartCause, StartError};
pub use handle::Handle;
pub use metrics::Metrics;
pub use runtime::{Runtime, run, spawn};
pub use task::{JoinError, JoinHandle};
