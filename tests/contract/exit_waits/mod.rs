//! What the exit waits for, in which order, and what it reports.
//!
//! No wall-clock time is a verdict here. A drain has a deadline of an hour, so a test whose drain
//! waits for something that never comes hangs.

mod holds;
mod in_hand;
mod left;
mod periodic;
mod receivers;
mod stages;
mod work;
mod workers;
