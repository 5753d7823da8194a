#![doc = include_str!("../README.md")]

pub use ebbtide_runtime::{
    Builder, Drain, DrainError, DrainOutcome, DrainReport, Draining, DriverChoice as Driver, Exit,
    ExitHold, JoinError, JoinHandle, LocalHandle as Handle, Metrics, Quiesced, RunningDriver,
    Runtime, StartCause, StartError, TaskRun, drain, drain_with, hold_exit, run, signal, spawn,
    spawn_blocking, task, time,
};

/// Datagram sockets. They mirror [`std::net`] and tokio where those have a name for it.
pub mod net {
    pub use ebbtide_net::*;
}
