//! Checks that the list fits the code, without trying a mutation.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::mutation::Mutation;
use super::report::Report;
use super::test_command::{TestCommand, listed_tests};
use super::{by_binaries, changed_files};

pub(crate) fn check(root: &Path, mutations: &[Mutation], report: &mut Report) {
    let read = |file: &str| fs::read_to_string(root.join(file));
    for mutation in mutations {
        if let Err(error) = changed_files(&mutation.changes, read) {
            report.error(&mutation.name, &format!("{error:#}"));
        }
    }
    for (binaries, mutations) in by_binaries(mutations) {
        match tests_of(root, &mutations[0].test) {
            Err(error) => report.error(&binaries, &format!("{error:#}")),
            Ok(tests) => check_tests(&tests, &mutations, report),
        }
    }
}

fn check_tests(tests: &BTreeSet<String>, mutations: &[&Mutation], report: &mut Report) {
    for mutation in mutations {
        let exists = match &mutation.test.test {
            Some(test) => tests.contains(test),
            None => !tests.is_empty(),
        };
        if !exists {
            report.error(
                &mutation.name,
                &format!("the test {} does not exist", mutation.test.name()),
            );
        }
    }
}

fn tests_of(root: &Path, command: &TestCommand) -> Result<BTreeSet<String>> {
    let output = command.list().current_dir(root).output().context("cargo cannot be started")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the tests cannot be listed:\n{}", errors.trim_end());
    Ok(listed_tests(&String::from_utf8_lossy(&output.stdout)).map(str::to_owned).collect())
}
