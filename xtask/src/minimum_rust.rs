//! Checks that the published crates need no newer Rust than `rust-version` in `Cargo.toml`.
//!
//! Clippy knows since which version an item of std is stable. What the language itself has gained
//! only a compiler of that version refuses, so the crates are also checked with that, if it is
//! installed.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use xshell::{Shell, cmd};

use crate::packages;

pub(crate) fn run(shell: &Shell, root: &Path) -> Result<()> {
    let packages = &packages::published();
    cmd!(shell, "cargo clippy {packages...} --lib --all-features")
        .args(["--", "-D", "clippy::incompatible_msrv"])
        .run()?;
    let version = rust_version(&shell.read_file(root.join("Cargo.toml"))?)?;
    match installed_toolchain(shell, &version) {
        Some(toolchain) => {
            // A build of its own, as the artefacts of two compilers do not mix.
            cmd!(shell, "cargo +{toolchain} check {packages...} --lib --all-features")
                .args(["--target-dir", "target/minimum-rust"])
                .run()?;
        }
        None => println!("skipped with Rust {version} itself: rustup has no such toolchain"),
    }
    Ok(())
}

#[derive(Deserialize)]
struct Manifest {
    workspace: Workspace,
}

#[derive(Deserialize)]
struct Workspace {
    package: Inherited,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Inherited {
    rust_version: String,
}

fn rust_version(manifest: &str) -> Result<String> {
    let manifest: Manifest = toml::from_str(manifest).context("Cargo.toml")?;
    Ok(manifest.workspace.package.rust_version)
}

/// Asks for the list, because naming a toolchain may install it.
fn installed_toolchain(shell: &Shell, version: &str) -> Option<String> {
    let list = cmd!(shell, "rustup toolchain list").quiet().ignore_stderr().read().ok()?;
    toolchain_of(&list, version).map(str::to_owned)
}

/// The toolchain of `version`, such as 1.88, in a list of rustup: of its latest patch, or of one.
fn toolchain_of<'a>(list: &'a str, version: &str) -> Option<&'a str> {
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let is_of_version = |name: &&str| {
        let rest = name.strip_prefix(version);
        rest.is_some_and(|rest| rest.starts_with(['-', '.']))
    };
    names.into_iter().find(is_of_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_workspace() {
        let manifest = "[workspace.package]\nedition = \"2024\"\nrust-version = \"1.88\"\n";
        assert_eq!(rust_version(manifest).unwrap(), "1.88");
        rust_version("[workspace.package]\nedition = \"2024\"\n").unwrap_err();
    }

    #[test]
    fn a_toolchain_is_found_by_its_version() {
        let list = "stable-x86_64-unknown-linux-gnu (default)\n\
                    1.8-x86_64-unknown-linux-gnu\n\
                    1.88.0-x86_64-unknown-linux-gnu\n";
        assert_eq!(toolchain_of(list, "1.88"), Some("1.88.0-x86_64-unknown-linux-gnu"));
        assert_eq!(toolchain_of(list, "1.8"), Some("1.8-x86_64-unknown-linux-gnu"));
        assert_eq!(toolchain_of(list, "1.9"), None);
    }
}
