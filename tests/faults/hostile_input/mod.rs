//! Input that means no good: each peer may send whatever the kernel lets through. Every datagram is
//! delivered once and in order, also what only looks like none; nothing else comes with it, and
//! nothing stops.
//!
//! The long form has a million empty datagrams on each driver and transport:
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
