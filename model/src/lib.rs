#![doc = include_str!("../README.md")]

mod address;
mod buffers;
mod choices;
mod coverage;
mod entry;
mod kernel;
mod program;
mod receiving;
mod rig;
mod ring;
mod run;
mod socket;
mod world;

pub use coverage::Coverage;
pub use rig::{Family, Rig};
pub use run::{Failure, Options, run_seed};
