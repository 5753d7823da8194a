//! [`PUBLISHED`]: the crates that are published.

/// Each after those that it needs.
pub(crate) const PUBLISHED: [&str; 3] = ["ebbtide-runtime", "ebbtide-net", "ebbtide"];
