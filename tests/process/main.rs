//! What concerns a whole process: signals, forks, what runtimes leave behind, and programs as a
//! user runs them. A test of this kind starts its binary again, and runs in a process of its own.
//!
//! Those of `asynchronous_delivery` count on the queues of a CPU, and run beside no other process
//! of a test.

mod asynchronous_delivery;
mod examples;
mod forked;
mod resources;
mod signals;
