//! The crates that are published, and what they ship.

use std::path::Path;

use anyhow::{Result, ensure};
use xshell::{Shell, cmd};

/// Each after those that it needs.
pub(crate) const PUBLISHED: [&str; 3] = ["ebbtide-runtime", "ebbtide-net", "ebbtide"];

/// What each has to ship beside its sources. A pattern of `include` that matches nothing is no error.
const SHIPPED: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// What is in no package: the list of mutations, and the pages of the repository.
const NOT_SHIPPED: [&str; 2] = ["tests/", "docs/"];

/// The arguments that name the published crates.
pub(crate) fn published() -> Vec<&'static str> {
    PUBLISHED.map(|package| ["--package", package]).concat()
}

/// Packages them as for crates.io, and compiles what is in each package. Uncommitted changes are
/// packaged as well.
pub(crate) fn run(shell: &Shell, _: &Path) -> Result<()> {
    for package in PUBLISHED {
        let files = cmd!(shell, "cargo package --allow-dirty --list --package {package}").read()?;
        check(package, &files)?;
    }
    let packages = published();
    cmd!(shell, "cargo package --allow-dirty {packages...}").run()?;
    Ok(())
}

/// Looks at the list of the files that a package ships.
fn check(package: &str, files: &str) -> Result<()> {
    for needed in SHIPPED {
        ensure!(files.lines().any(|file| file == needed), "{package} does not ship {needed}");
    }
    for file in files.lines() {
        let is_unwanted = NOT_SHIPPED.iter().any(|folder| file.starts_with(folder));
        ensure!(!is_unwanted, "{package} ships {file}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_ships_its_licences_and_not_the_mutations() {
        let files = "Cargo.toml\nLICENSE-APACHE\nLICENSE-MIT\nREADME.md\nsrc/lib.rs\n";
        check("a", files).unwrap();
        let error = check("a", &files.replace("LICENSE-MIT\n", "")).unwrap_err();
        assert_eq!(error.to_string(), "a does not ship LICENSE-MIT");
        let error = check("a", &format!("{files}tests/mutations/1.toml\n")).unwrap_err();
        assert_eq!(error.to_string(), "a ships tests/mutations/1.toml");
    }
}
