//! [`Report`]: prints and counts the results.

use std::fmt::Display;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::mutation::Mutation;
use super::verdict::Verdict;

pub(crate) struct Report {
    start: Instant,
    caught: usize,
    survived: usize,
    missed: usize,
    errors: usize,
}

impl Default for Report {
    fn default() -> Self {
        Self { start: Instant::now(), caught: 0, survived: 0, missed: 0, errors: 0 }
    }
}

impl Report {
    pub(crate) fn verdict(&mut self, mutation: &Mutation, verdict: &Verdict) {
        let Mutation { name, step, test, .. } = mutation;
        let by = |tests: &[String]| match tests {
            [] => test.name().to_owned(),
            tests => tests.join(", "),
        };
        match verdict {
            Verdict::CaughtBy(tests) => {
                self.caught += 1;
                println!("caught   {name} by {}", by(tests));
            }
            Verdict::CaughtByHanging => {
                self.caught += 1;
                println!("caught   {name} by {}, which hangs", test.name());
            }
            Verdict::Survived => {
                self.survived += 1;
                println!("SURVIVED {name}: {step}");
            }
            Verdict::MissedAsExpected => {
                self.missed += 1;
                println!("missed   {name}, as expected");
            }
            Verdict::CaughtUnexpectedly(tests) => {
                self.error(name, &format!("expected to be missed, caught by {}", by(tests)));
            }
            Verdict::NoTest => {
                self.error(name, &format!("the test {} does not exist", test.name()))
            }
        }
    }

    pub(crate) fn error(&mut self, name: &dyn Display, why: &str) {
        self.errors += 1;
        println!("ERROR    {name}: {why}");
    }

    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    pub(crate) fn summary(&self, count: usize) -> String {
        let Self { start, caught, survived, missed, errors } = self;
        format!(
            "{caught} of {count} mutations caught, {survived} survived, {missed} missed as \
             expected, {errors} errors, in {} s",
            start.elapsed().as_secs()
        )
    }

    pub(crate) fn result(&self) -> Result<()> {
        let Self { survived, errors, .. } = self;
        ensure!(
            survived + errors == 0,
            "{survived} mutations survived, the list has {errors} errors"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report_of(verdicts: &[Verdict]) -> Report {
        let text = "step = 'S.'\ntest = 'cargo test -- --exact t'\n\
                    [[change]]\nfile = 'a.rs'\nbefore = 'a'\nafter = 'b'\n";
        let mutation = Mutation::parse("name".to_owned(), text).unwrap();
        let mut report = Report::default();
        for verdict in verdicts {
            report.verdict(&mutation, verdict);
        }
        report
    }

    #[test]
    fn what_is_caught_or_missed_as_expected_is_no_failure() {
        let by = Verdict::CaughtBy(vec!["t".to_owned()]);
        let report = report_of(&[by, Verdict::CaughtByHanging, Verdict::MissedAsExpected]);
        let summary = "2 of 3 mutations caught, 0 survived, 1 missed as expected, 0 errors, in 0 s";
        assert_eq!(report.summary(3), summary);
        assert!(report.result().is_ok());
    }

    #[test]
    fn what_survives_and_what_is_wrong_in_the_list_is_a_failure() {
        let wrong = Verdict::CaughtUnexpectedly(Vec::new());
        for verdict in [Verdict::Survived, wrong, Verdict::NoTest] {
            assert!(report_of(&[verdict]).result().is_err());
        }
    }
}
