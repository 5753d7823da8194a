//! What each type and each method does beyond the contract: sockets and their options, offloads,
//! tasks, and the driver that a runtime gets.

mod adopted;
mod driver;
mod offload;
mod options;
mod reuseport;
mod tasks;
mod udp;
mod unix;

use std::io;

/// Fails unless both calls failed with the same errno and the same kind.
#[track_caller]
fn assert_same_error(call: &str, ours: io::Result<()>, std: io::Result<()>) {
    let (ours, std) = (ours.expect_err(call), std.expect_err(call));
    let errnos = (ours.raw_os_error(), std.raw_os_error());
    assert_eq!(errnos.0, errnos.1, "{call}: {ours}; std: {std}");
    assert_eq!(ours.kind(), std.kind(), "{call}: {ours}; std: {std}");
}
