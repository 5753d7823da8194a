//! The contract. Each point of the README has a file or a folder, in the order of the README.
//! Another folder has what the exit waits for.
//!
//! A scenario runs on io_uring with large and with tiny queues, and on epoll. A test that counts
//! what the whole process holds runs in a separate process.

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
