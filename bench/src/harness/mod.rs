//! What every measurement needs: sockets, a load generator in a process of its
//! own, counters in memory that both see, the clock, and the tallies that check every datagram.

pub(crate) mod backlog;
pub(crate) mod cpu;
pub(crate) mod gate;
pub(crate) mod generator;
pub(crate) mod memory;
pub(crate) mod shared;
pub(crate) mod sockets;
pub(crate) mod stopwatch;
pub(crate) mod tally;

use std::process;

/// Ends the process with the reason: the measurement is void. Not a panic, because runtimes catch
/// those of their tasks.
pub(crate) fn fail(reason: &str) -> ! {
    eprintln!("void measurement: {reason}");
    process::exit(1)
}
