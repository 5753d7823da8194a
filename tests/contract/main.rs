//! The contract: a file or a folder for each of its points in the README, in their order, and then
//! for what the exit waits for.
//!
//! A scenario runs on io_uring with large and with tiny queues, and on epoll. What counts what the
//! whole process has runs in a process of its own.

// 1. Every datagram that the kernel has queued is delivered once, and in order.
mod once_in_order;
// 2. A dropped future loses nothing.
mod dropped_futures;
// 3. The exit drains.
mod exit_drains;
// 4. The drain ends.
mod drain_ends;
// 5. Nothing vanishes silently.
mod nothing_vanishes;
// 6. A full pool is back-pressure, not an error.
mod full_pool;
// 7. When `shutdown` returns, it is over.
mod over_when_shutdown_returns;
// What the exit waits for.
mod exit_waits;

// Bugs that broke one of these points.
mod regressions;

mod backlog;
mod queued;
