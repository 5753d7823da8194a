//! [`Report`]: what came of the programs on each kernel.

use std::fmt;

use anyhow::{Result, ensure};

use super::machine::Outcome;
use super::{Kernel, Program};

pub(crate) struct Report {
    programs: Vec<String>,
    columns: Vec<Column>,
}

struct Column {
    version: String,
    outcomes: Vec<Outcome>,
    problems: Vec<String>,
}

impl Report {
    /// Of programs that are to run on each kernel.
    pub(crate) fn new(programs: &[&Program]) -> Self {
        let programs = programs.iter().map(|program| program.name.clone()).collect();
        Self { programs, columns: Vec::new() }
    }

    pub(crate) fn add(&mut self, kernel: &Kernel, outcomes: Vec<Outcome>) {
        let mut problems = Vec::new();
        for program in &self.programs {
            match outcomes.iter().find(|outcome| outcome.program == *program) {
                Some(outcome) => problems.extend(outcome_problems(outcome, kernel)),
                None => problems.push(format!("{program} did not run")),
            }
        }
        self.columns.push(Column { version: kernel.version.clone(), outcomes, problems });
    }

    pub(crate) fn result(&self) -> Result<()> {
        let failed: Vec<_> =
            self.columns.iter().filter(|column| !column.problems.is_empty()).collect();
        let versions: Vec<_> = failed.iter().map(|column| column.version.as_str()).collect();
        ensure!(versions.is_empty(), "failed on Linux {}", versions.join(", "));
        Ok(())
    }
}

fn outcome_problems(outcome: &Outcome, kernel: &Kernel) -> Vec<String> {
    let program = &outcome.program;
    let mut problems: Vec<_> =
        outcome.failures.iter().map(|test| format!("{program}: {test}")).collect();
    if problems.is_empty() && !outcome.has_passed() {
        problems.push(format!("{program}: {}", outcome.summary()));
    }
    if let Some(driver) = &outcome.driver
        && !is_expected(driver, kernel)
    {
        problems.push(format!("{program}: the driver is {driver}"));
    }
    problems
}

/// A ring where there is one; else epoll, and that the kernel is too old.
fn is_expected(driver: &str, kernel: &Kernel) -> bool {
    match kernel.has_ring() {
        true => driver == "io_uring",
        false => driver.starts_with("epoll (") && driver.contains("use Linux 6.1 or newer"),
    }
}

impl fmt::Display for Report {
    /// As a table of a document.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, first: &str, cells: Vec<String>| {
            writeln!(f, "| {first} | {} |", cells.join(" | "))
        };
        let columns = || self.columns.iter();
        row(f, "Program", columns().map(|column| format!("Linux {}", column.version)).collect())?;
        row(f, "---", columns().map(|_| "---".to_owned()).collect())?;
        for program in &self.programs {
            row(f, program, columns().map(|column| column.cell(program)).collect())?;
        }
        for Column { version, outcomes, problems } in &self.columns {
            for driver in outcomes.iter().filter_map(|outcome| outcome.driver.as_ref()) {
                write!(f, "\nLinux {version}: the driver is {driver}")?;
            }
            for why in outcomes.iter().flat_map(|outcome| &outcome.skipped) {
                write!(f, "\nLinux {version}: skipped: {why}")?;
            }
            for problem in problems {
                write!(f, "\nLinux {version}: FAILED: {problem}")?;
            }
        }
        writeln!(f)
    }
}

impl Column {
    fn cell(&self, program: &str) -> String {
        let outcome = self.outcomes.iter().find(|outcome| outcome.program == program);
        outcome.map_or_else(|| "did not run".to_owned(), Outcome::summary)
    }
}
