//! [`Program`]: what is run on a kernel, built as `cargo test` builds it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;
use xshell::{Shell, cmd};

use super::Architecture;
use crate::model;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: String,
    kind: Kind,
    /// Without its debug information, which would fill the memory of the guest.
    pub(crate) file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tests,
    Example,
}

/// The example that is run by itself. The others are there for the tests that run them.
const EXAMPLE: &str = "packet_counter";

impl Program {
    /// Where it lies in the guest. Tests find the examples beside their own folder.
    pub(crate) fn path(&self) -> String {
        match self.kind {
            Kind::Tests => format!("target/deps/{}", self.name),
            Kind::Example => format!("target/examples/{}", self.name),
        }
    }

    /// Whether its name contains one of `words`, or there are none.
    pub(crate) fn is_chosen_by(&self, words: &[String]) -> bool {
        let is_run = self.kind == Kind::Tests || self.name == EXAMPLE;
        is_run && (words.is_empty() || words.iter().any(|word| self.name.contains(word.as_str())))
    }

    /// What it is started with: the tests that run, and that what they skip is printed.
    pub(crate) fn arguments(&self, test: Option<&str>) -> String {
        match self.kind {
            Kind::Tests => format!("--show-output {}", test.unwrap_or_default()),
            Kind::Example => String::new(),
        }
    }
}

/// Builds the tests and examples that users get, and the test that compares the model with the
/// kernel. Strips them into `folder`.
pub(crate) fn build(
    shell: &Shell,
    folder: &Path,
    architecture: Architecture,
) -> Result<Vec<Program>> {
    shell.create_dir(folder)?;
    // Without `--target` here, so that the build is the one of `cargo test`.
    let target = match architecture.is_foreign() {
        true => vec!["--target".to_owned(), architecture.target()],
        false => Vec::new(),
    };
    let build = |arguments: &[&str]| {
        cmd!(shell, "cargo test --no-run --message-format json-render-diagnostics")
            .args(arguments)
            .args(&target)
            .env(architecture.linker_variable(), architecture.tool("gcc"))
    };
    let (name, flags) = model::CFG;
    let conformance =
        build(&["--package", "ebbtide-model", "--test", "conformance"]).env(name, flags).read()?;
    let shipped = build(&[]).read()?;
    let mut programs = Vec::new();
    for (name, kind, executable) in conformance.lines().chain(shipped.lines()).filter_map(built) {
        let file = folder.join(&name);
        let strip = architecture.tool("strip");
        cmd!(shell, "{strip} -o {file} {executable}").quiet().run()?;
        programs.push(Program { name, kind, file });
    }
    Ok(programs)
}

/// What cargo reports about each thing that it has built.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The name, kind and file of the program that a message of cargo is about.
fn built(message: &str) -> Option<(String, Kind, PathBuf)> {
    let message: Message = serde_json::from_str(message).ok()?;
    let (target, executable) = (message.target?, message.executable?);
    let kind = match target.kind.first()?.as_str() {
        "example" => Kind::Example,
        "lib" | "test" => Kind::Tests,
        // Built because a test of the package may run it.
        _ => return None,
    };
    Some((target.name, kind, executable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_what_cargo_reports() {
        let message = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"api"},
            "profile":{"test":true},"executable":"/target/debug/deps/api-1"}"#;
        let file = PathBuf::from("/target/debug/deps/api-1");
        assert_eq!(built(message), Some(("api".to_owned(), Kind::Tests, file)));
        assert_eq!(built(&message.replace("\"test\"]", "\"bin\"]")), None);
        let library = message.replace("\"/target/debug/deps/api-1\"", "null");
        assert_eq!(built(&library), None);
        assert_eq!(built(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
