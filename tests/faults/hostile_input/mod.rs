//! Hostile input: a peer may send whatever the kernel accepts. Every datagram is delivered once and
//! in order, even if it does not look like one. Nothing else is delivered, and no socket stops.
//!
//! The long form sends a million empty datagrams on each driver and transport:
//!
//! ```text
//! cargo test --release --test faults -- hostile_input --ignored --nocapture
//! ```

mod addresses;
mod checksums;
mod control;
mod empty;
mod errors;
mod sizes;
mod trains;
