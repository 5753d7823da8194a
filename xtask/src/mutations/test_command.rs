//! [`TestCommand`]: the command of a test, as in a mutation and on the command line.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// `[NAME=VALUE ..] cargo test [ARGUMENT ..] [-- --exact TEST]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestCommand {
    /// The part before `--`. It is equal for tests in the same binaries.
    pub(crate) binaries: String,
    /// `None` means all tests of these binaries.
    pub(crate) test: Option<String>,
}

impl TestCommand {
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let (binaries, test) = match line.split_once(" -- ") {
            None => (line, None),
            Some((binaries, rest)) => {
                let test = rest.strip_prefix("--exact ").filter(|test| !test.contains(' '));
                let test = test.with_context(|| format!("`{rest}` is not `--exact TEST`"))?;
                (binaries, Some(test.to_owned()))
            }
        };
        let (_, words) = variables_and_words(binaries);
        ensure!(words.starts_with(&["cargo", "test"]), "`{line}` is not `cargo test ..`");
        Ok(Self { binaries: binaries.to_owned(), test })
    }

    /// The name of the test, or the command if it runs all of its tests.
    pub(crate) fn name(&self) -> &str {
        self.test.as_deref().unwrap_or(&self.binaries)
    }

    pub(crate) fn build(&self) -> Command {
        command(&self.binaries, &["--no-run"])
    }

    /// Lists all tests of the same binaries.
    pub(crate) fn list(&self) -> Command {
        command(&self.binaries, &["--", "--list"])
    }

    /// Runs these tests of the same binaries. Without tests, runs all of them.
    pub(crate) fn run(&self, tests: &[&str]) -> Command {
        let mut command = command(&self.binaries, &[]);
        if !tests.is_empty() {
            command.args(["--", "--exact"]).args(tests);
        }
        command
    }
}

/// The names in the output of [`TestCommand::list`].
pub(crate) fn listed_tests(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter_map(|line| line.strip_suffix(": test"))
}

fn command(line: &str, more: &[&str]) -> Command {
    let (variables, words) = variables_and_words(line);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(more).envs(variables);
    command
}

fn variables_and_words(line: &str) -> (Vec<(&str, &str)>, Vec<&str>) {
    let mut words = line.split_whitespace().peekable();
    let mut variables = Vec::new();
    while let Some(variable) = words.peek().and_then(|word| word.split_once('=')) {
        variables.push(variable);
        words.next();
    }
    (variables, words.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(command: &Command) -> Vec<&str> {
        command.get_args().map(|argument| argument.to_str().unwrap()).collect()
    }

    #[test]
    fn a_command_is_parsed_into_binaries_and_a_test() {
        let command = TestCommand::parse("cargo test --test pool -- --exact it::sleeps").unwrap();
        assert_eq!(command.binaries, "cargo test --test pool");
        assert_eq!(command.name(), "it::sleeps");
        assert_eq!(arguments(&command.build()), ["test", "--test", "pool", "--no-run"]);
        let run = command.run(&["it::sleeps"]);
        assert_eq!(arguments(&run), ["test", "--test", "pool", "--", "--exact", "it::sleeps"]);
    }

    #[test]
    fn without_a_test_all_of_the_binaries_are_meant() {
        let command = TestCommand::parse("cargo test -p ebbtide-loom --release").unwrap();
        assert_eq!(command.test, None);
        assert_eq!(arguments(&command.run(&[])), ["test", "-p", "ebbtide-loom", "--release"]);
    }

    #[test]
    fn leading_variables_are_the_environment() {
        let line = "RUSTFLAGS=--cfg=x cargo test --features=y -- --exact t";
        let run = TestCommand::parse(line).unwrap().run(&["t"]);
        assert_eq!(run.get_program(), "cargo");
        assert_eq!(arguments(&run), ["test", "--features=y", "--", "--exact", "t"]);
        let variables: Vec<_> = run.get_envs().collect();
        assert_eq!(variables, [("RUSTFLAGS".as_ref(), Some("--cfg=x".as_ref()))]);
    }

    #[test]
    fn other_commands_are_errors() {
        for line in ["", "make test", "cargo run", "cargo test -- t", "cargo test -- --exact t u"] {
            assert!(TestCommand::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn listed_tests_are_names_without_benchmarks_and_counts() {
        let output = "a::b: test\nc: benchmark\n\n1 test, 1 benchmark\n";
        assert!(listed_tests(output).eq(["a::b"]));
    }
}
