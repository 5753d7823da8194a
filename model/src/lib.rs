#![doc = include_str!("../README.md")]

mod address;
mod buffers;
mod choices;
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
mod world;

pub use coverage::Coverage;
pub use rig::{Family, Rig};
pub use run::{Failure, Options, run_seed};
