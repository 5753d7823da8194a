//! What the exit waits for, in which order, and what it says.
//!
//! No time limit is a verdict here: a drain that waits for what never comes has a deadline of an
//! hour, so that a test of it hangs where it fails.

mod holds;
mod in_hand;
mod left;
mod periodic;
mod receivers;
mod stages;
mod work;
mod workers;
