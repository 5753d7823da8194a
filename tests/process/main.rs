//! What concerns a whole process: signals, forks, what runtimes leave behind, and programs as a
//! user runs them. Such a test starts its binary again, and runs in a separate process.
//!
//! The tests of `asynchronous_delivery` depend on the queues of a CPU, so no other process of a
//! test runs beside them.

mod asynchronous_delivery;
mod examples;
mod forked;
mod resources;
mod signals;
