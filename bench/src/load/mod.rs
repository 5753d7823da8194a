//! What the load generator does: floods for sinks, and the client of an echo server.

pub(crate) mod echo_client;
pub(crate) mod flood;
pub(crate) mod sender;
