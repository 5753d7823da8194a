//! A deterministic kernel in memory, and random programs that run on it. Not published.
//!
//! The model replaces three things: the two queues of the ring with their system call
//! (`runtime/src/driver/ring/queues.rs`), the system calls of a socket (`net/src/sys/socket.rs`),
//! and the clock. Everything above is the code that users run. The model reads the 64-byte entries
//! that the ring pushes, takes buffers out of the shared ring, and writes datagrams into them.
//!
//! A seed determines a program: sockets, tasks that receive in nine ways, senders, drains, and an
//! end. It also determines what the kernel does: when a multishot ends, which enters fail, when
//! datagrams arrive. Invariants are checked after every step (`invariants.rs`): each datagram is
//! delivered once and in order, no buffer is filled while it is held, and no receiver waits for
//! something that is there. At the end every count balances to the last datagram.
//!
//! `tests/conformance.rs` runs the same random scripts on the real kernel and on the model.
//!
//! Not covered: the epoll driver, `quiesce`, other threads, signals, `into_std`, switching GRO, and
//! batched and coalesced sends.
//!
//! The model exists only with `--cfg ebbtide_model`. Without it this crate is empty.

#![cfg(ebbtide_model)]

mod address;
mod buffers;
mod choices;
mod command;
mod coverage;
mod entry;
mod holding;
mod invariants;
mod kernel;
mod program;
mod receiver;
mod receiving;
mod requests;
mod rig;
mod ring;
mod run;
mod sending;
mod socket;
mod version;
mod world;

pub use command::command;
pub use coverage::Coverage;
pub use rig::{Family, Rig};
pub use run::{Failure, Options, run_seed};
pub use version::Version;
