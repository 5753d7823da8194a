//! Tries mutations: takes out the step, builds, and runs the test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::checkout::{Checkout, Ended};
use super::mutation::Mutation;
use super::report::Report;
use super::verdict::{Verdict, passed_tests};
use super::{by_binaries, changed_files};

pub(crate) fn try_all(root: &Path, mutations: &[Mutation], report: &mut Report) -> Result<()> {
    let checkout = Checkout::of_head(root)?;
    for (binaries, mutations) in by_binaries(mutations) {
        if let Err(error) = check_passing(&checkout, &mutations) {
            report.error(&binaries, &format!("on the unchanged code, {error:#}"));
        }
    }
    for mutation in mutations {
        match try_one(&checkout, mutation) {
            Ok(verdict) => report.verdict(mutation, &verdict),
            Err(error) => report.error(&mutation.name, &format!("{error:#}")),
        }
    }
    Ok(())
}

/// Checks that the tests of these mutations, which are in the same binaries, pass on the unchanged
/// code.
fn check_passing(checkout: &Checkout, mutations: &[&Mutation]) -> Result<()> {
    let command = &mutations[0].test;
    let tests: Option<BTreeSet<&str>> =
        mutations.iter().map(|mutation| mutation.test.test.as_deref()).collect();
    // A mutation without a named test needs all tests.
    let tests = Vec::from_iter(tests.unwrap_or_default());
    let Ended { status, output } = checkout.run(command.run(&tests))?;
    ensure!(status.success(), "not all tests pass:\n{}", essence(&output));
    let (passed, wanted) = (passed_tests(&output), tests.len().max(1));
    ensure!(passed >= wanted, "{passed} of {wanted} tests exist");
    Ok(())
}

fn try_one(checkout: &Checkout, mutation: &Mutation) -> Result<Verdict> {
    let root = checkout.root();
    let read = |file: &str| fs::read_to_string(root.join(file));
    let files = changed_files(&mutation.changes, read)?;
    let mut unchanged = Vec::new();
    for (file, text) in &files {
        unchanged.push((root.join(file), read(file)?));
        fs::write(root.join(file), text)?;
    }
    let verdict = test(checkout, mutation);
    for (path, text) in unchanged {
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    verdict
}

/// Builds and runs the test, while the step is taken out.
fn test(checkout: &Checkout, mutation: &Mutation) -> Result<Verdict> {
    let command = &mutation.test;
    let Ended { status, output } = checkout.run(command.build())?;
    ensure!(status.success(), "the code does not compile:\n{}", essence(&output));
    let tests = Vec::from_iter(command.test.as_deref());
    let run = checkout.run_with_patience(&command.run(&tests))?;
    Ok(Verdict::of(&run, mutation.expected))
}

/// The lines of an output that name what failed.
fn essence(output: &str) -> String {
    const BEGINNINGS: [&str; 4] = ["error", "--> ", "test result", "thread "];
    let tells = |line: &&str| {
        let begins = |beginning| line.trim_start().starts_with(beginning);
        BEGINNINGS.into_iter().any(begins) || line.ends_with(" ... FAILED")
    };
    output.lines().filter(tells).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_essence_of_an_output_is_what_has_failed() {
        let output = "\
   Compiling a v0.1.0
error[E0425]: cannot find `x`
 --> src/lib.rs:1:1
  |
test a ... ok
test b ... FAILED
test result: FAILED. 1 passed; 1 failed
";
        let expected = "\
error[E0425]: cannot find `x`
 --> src/lib.rs:1:1
test b ... FAILED
test result: FAILED. 1 passed; 1 failed";
        assert_eq!(essence(output), expected);
    }
}
