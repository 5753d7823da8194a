//! The short form of the soak.

use std::process::Command;

/// Fails when a datagram is lost or comes twice, or when a runtime leaks a descriptor.
#[test]
fn a_soak_of_some_seconds_balances() {
    let mut soak = Command::new(env!("CARGO_BIN_EXE_ebbtide-soak"));
    let output = soak.args(["--minutes", "0.1"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{}", output.status);
}
