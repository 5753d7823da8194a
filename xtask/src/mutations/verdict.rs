//! [`Verdict`]: whether the test noticed the mutation, and whether that was expected.

use super::mutation::Expected;

/// The result of the test without the step, with its output.
#[derive(Debug)]
pub(crate) enum TestRun {
    Passed(String),
    Failed(String),
    /// It was stopped, because it took too long.
    Hung,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The tests that failed. Empty if none had failed before the process ended.
    CaughtBy(Vec<String>),
    CaughtByHanging,
    /// The step is missing, and no test noticed.
    Survived,
    /// No test noticed. The mutation says why.
    MissedAsExpected,
    /// The tests that caught a mutation that was expected to be missed.
    CaughtUnexpectedly(Vec<String>),
    /// The command ran no test.
    NoTest,
}

impl Verdict {
    pub(crate) fn of(run: &TestRun, expected: Expected) -> Self {
        match (run, expected) {
            (TestRun::Passed(output), _) if passed_tests(output) == 0 => Self::NoTest,
            (TestRun::Passed(_), Expected::Caught) => Self::Survived,
            (TestRun::Passed(_), Expected::Missed) => Self::MissedAsExpected,
            (TestRun::Failed(output), Expected::Caught) => Self::CaughtBy(failed_tests(output)),
            (TestRun::Failed(output), Expected::Missed) => {
                Self::CaughtUnexpectedly(failed_tests(output))
            }
            (TestRun::Hung, Expected::Caught) => Self::CaughtByHanging,
            (TestRun::Hung, Expected::Missed) => Self::CaughtUnexpectedly(Vec::new()),
        }
    }
}

/// How many tests passed, in all binaries that ran.
pub(crate) fn passed_tests(output: &str) -> usize {
    let results = output.lines().filter_map(|line| line.strip_prefix("test result: "));
    let passed = results.filter_map(|result| {
        let (_, counts) = result.split_once(". ")?;
        counts.split_once(" passed")?.0.parse::<usize>().ok()
    });
    passed.sum()
}

fn failed_tests(output: &str) -> Vec<String> {
    let test = |line: &str| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        // A test with #[should_panic] is listed as "NAME - should panic".
        Some(name.split(' ').next()?.to_owned())
    };
    output.lines().filter_map(test).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "\
running 1 test
test a::b ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s
";
    const FAILED: &str = "\
running 2 tests
test a::b ... FAILED
test c - should panic ... FAILED

test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s
";
    const NONE: &str = "\
running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.00s
";

    fn passes(output: &str) -> TestRun {
        TestRun::Passed(output.to_owned())
    }

    fn fails(output: &str) -> TestRun {
        TestRun::Failed(output.to_owned())
    }

    #[test]
    fn a_test_that_fails_has_caught_the_mutation() {
        let caught = Verdict::of(&fails(FAILED), Expected::Caught);
        assert_eq!(caught, Verdict::CaughtBy(vec!["a::b".to_owned(), "c".to_owned()]));
        // A process that aborts prints no result.
        let caught = Verdict::of(&fails("running 1 test\n"), Expected::Caught);
        assert_eq!(caught, Verdict::CaughtBy(Vec::new()));
    }

    #[test]
    fn a_test_that_hangs_has_caught_the_mutation() {
        assert_eq!(Verdict::of(&TestRun::Hung, Expected::Caught), Verdict::CaughtByHanging);
    }

    #[test]
    fn a_test_that_passes_has_missed_the_mutation() {
        assert_eq!(Verdict::of(&passes(PASSED), Expected::Caught), Verdict::Survived);
        assert_eq!(Verdict::of(&passes(PASSED), Expected::Missed), Verdict::MissedAsExpected);
    }

    #[test]
    fn what_is_expected_to_be_missed_must_not_be_caught() {
        let by = vec!["a::b".to_owned(), "c".to_owned()];
        let verdict = Verdict::of(&fails(FAILED), Expected::Missed);
        assert_eq!(verdict, Verdict::CaughtUnexpectedly(by));
        let verdict = Verdict::of(&TestRun::Hung, Expected::Missed);
        assert_eq!(verdict, Verdict::CaughtUnexpectedly(Vec::new()));
    }

    #[test]
    fn a_command_that_runs_no_test_says_nothing() {
        assert_eq!(Verdict::of(&passes(NONE), Expected::Caught), Verdict::NoTest);
        assert_eq!(Verdict::of(&passes(""), Expected::Missed), Verdict::NoTest);
    }

    #[test]
    fn passed_tests_are_those_of_all_binaries() {
        assert_eq!(passed_tests(&[NONE, PASSED, FAILED, PASSED].concat()), 2);
    }
}
