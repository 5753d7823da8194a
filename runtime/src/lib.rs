//! The runtime under [`ebbtide`](https://docs.rs/ebbtide): tasks, time, the io_uring and epoll
//! drivers, the buffer pool and the drain. It knows no socket; those are in `ebbtide-net`.
//!
//! Programs use the crate `ebbtide`. [`Registration`], [`Drainable`] and the modules [`driver`] and
//! [`buffer`] are for crates that bring kinds of sockets.
//!
//! Start reading at `runtime.rs`.

#![warn(clippy::unwrap_used)]
// Tests, and the seam of the model, may be shorter.
#![cfg_attr(
    not(any(test, ebbtide_model)),
    warn(
        clippy::pedantic,
        clippy::as_underscore,
        clippy::clone_on_ref_ptr,
        clippy::empty_structs_with_brackets,
        clippy::exit,
        clippy::get_unwrap,
        clippy::lossy_float_literal,
        clippy::mixed_read_write_in_expression,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::rest_pat_in_fully_bound_structs,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unnecessary_self_imports,
        clippy::verbose_file_reads,
    )
)]
#![cfg_attr(
    not(any(test, ebbtide_model)),
    allow(
        clippy::doc_markdown,
        clippy::duration_suboptimal_units,
        clippy::inline_always,
        clippy::match_bool,
        clippy::match_same_arms,
        clippy::missing_panics_doc,
        clippy::similar_names,
        clippy::single_match_else,
        clippy::struct_excessive_bools,
        clippy::unchecked_time_subtraction,
        clippy::unnecessary_debug_formatting,
        clippy::unnested_or_patterns,
        reason = "the names of the kernel are prose; what is inlined was measured; arms have \
                  reasons of their own; a panic that is a bug is no part of the contract"
    )
)]
// What does not fit is an error, or the largest that fits; nothing wraps on its way to the kernel.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)
)]

#[cfg(not(target_os = "linux"))]
compile_error!("ebbtide runs on Linux only: it needs io_uring or epoll");

mod blocking;
pub mod buffer;
mod builder;
mod clock;
mod current;
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
mod process;
mod registration;
mod retry;
mod runtime;
pub mod signal;
mod signal_handler;
mod spawn_blocking;
mod sync;
pub mod task;
pub mod time;
mod timers;
mod turn_end;
mod wakes;

pub use builder::Builder;
pub use drain::{
    Drain, DrainError, DrainKey, DrainOutcome, DrainReport, Drainable, Draining, Exit, ExitHold,
    Member, Pass, Presence, Quiesced, ReadProgress, Receivers, SocketStats, drain, drain_with,
    hold_exit,
};
pub use driver::{DriverChoice, RunningDriver, StartCause, StartError, TaskRun};
pub use handle::LocalHandle;
pub use in_flight::InFlight;
pub use metrics::Metrics;
pub use registration::Registration;
pub use retry::Retry;
pub use runtime::{Runtime, run, spawn};
pub use spawn_blocking::spawn_blocking;
pub use task::{JoinError, JoinHandle};
pub use turn_end::{Again, AtTurnEnd};
pub use wakes::Wakes;
