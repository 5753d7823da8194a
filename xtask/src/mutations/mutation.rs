//! [`Mutation`]: one safety step, the change that takes it out of the code, and the test that fails
//! then.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::test_command::TestCommand;

pub(crate) struct Mutation {
    /// The name of its file, without the extension.
    pub(crate) name: String,
    pub(crate) step: String,
    pub(crate) test: TestCommand,
    pub(crate) expected: Expected,
    pub(crate) changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Expected {
    #[default]
    Caught,
    /// No test can notice that the step is missing. The file says why.
    Missed,
}

/// Replaces a text that occurs exactly once in a file.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    pub(crate) file: String,
    pub(crate) before: String,
    pub(crate) after: String,
}

/// What a file of the list holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    step: String,
    test: String,
    #[serde(default)]
    expect: Expected,
    reason: Option<String>,
    change: Vec<Change>,
}

impl Mutation {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let name = path.file_stem().context("the file has no name")?.to_string_lossy().into_owned();
        Self::parse(name, &fs::read_to_string(path)?)
    }

    pub(crate) fn parse(name: String, text: &str) -> Result<Self> {
        let description: Description = toml::from_str(text)?;
        let test = TestCommand::parse(&description.test)?;
        match (description.expect, &description.reason) {
            (Expected::Missed, None) => bail!("`expect` is \"missed\", but there is no `reason`"),
            (Expected::Caught, Some(_)) => {
                bail!("there is a `reason`, but `expect` is not \"missed\"")
            }
            (Expected::Missed, Some(_)) | (Expected::Caught, None) => {}
        }
        ensure!(!description.change.is_empty(), "there is no [[change]]");
        let Description { step, expect: expected, change: changes, .. } = description;
        Ok(Self { name, step, test, expected, changes })
    }

    /// True if the name contains one of the words, or if there are no words.
    pub(crate) fn is_chosen_by(&self, words: &[String]) -> bool {
        words.is_empty() || words.iter().any(|word| self.name.contains(word.as_str()))
    }
}

impl Change {
    /// Returns the text of the file after the change.
    pub(crate) fn apply(&self, text: &str) -> Result<String> {
        let Self { file, before, after } = self;
        ensure!(!before.is_empty() && before != after, "a change of {file} changes nothing");
        let (start, _) = text
            .match_indices(before)
            .next()
            .with_context(|| format!("{file} does not contain:\n{}", before.trim_end()))?;
        // From the next character on, because overlapping occurrences count as well.
        let step = before.chars().next().map_or(1, char::len_utf8);
        if text[start + step..].contains(before) {
            bail!("{file} contains more than once:\n{}", before.trim_end());
        }
        Ok([&text[..start], after, &text[start + before.len()..]].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Mutation> {
        Mutation::parse("41-a-name".to_owned(), text)
    }

    fn change(before: &str, after: &str) -> Change {
        Change { file: "a.rs".to_owned(), before: before.to_owned(), after: after.to_owned() }
    }

    const CHANGE: &str = "[[change]]\nfile = 'a.rs'\nbefore = '''\n    x;\n'''\nafter = ''\n";

    #[test]
    fn a_file_is_parsed() {
        let text = format!("step = 'S.'\ntest = 'cargo test -- --exact t'\n{CHANGE}");
        let mutation = parse(&text).unwrap();
        assert_eq!(mutation.step, "S.");
        assert_eq!(mutation.expected, Expected::Caught);
        assert_eq!(mutation.changes, [change("    x;\n", "")]);
    }

    #[test]
    fn what_is_expected_to_be_missed_needs_a_reason_and_nothing_else_has_one() {
        let with = |more: &str| parse(&format!("step = 'S.'\ntest = 'cargo test'\n{more}{CHANGE}"));
        assert_eq!(with("").unwrap().expected, Expected::Caught);
        assert!(with("expect = 'missed'\n").is_err());
        assert!(with("reason = 'R.'\n").is_err());
        let missed = with("expect = 'missed'\nreason = 'R.'\n").unwrap();
        assert_eq!(missed.expected, Expected::Missed);
    }

    #[test]
    fn unknown_keys_and_missing_changes_are_errors() {
        let head = "step = 'S.'\ntest = 'cargo test'\n";
        assert!(parse(&format!("{head}change = []\n")).is_err());
        assert!(parse(&format!("{head}because = 'R.'\n{CHANGE}")).is_err());
        assert!(parse(head).is_err());
    }

    #[test]
    fn words_choose_by_a_part_of_the_name() {
        let mutation = parse(&format!("step = 'S.'\ntest = 'cargo test'\n{CHANGE}")).unwrap();
        assert!(mutation.is_chosen_by(&[]));
        assert!(mutation.is_chosen_by(&["seal".to_owned(), "41-".to_owned()]));
        assert!(!mutation.is_chosen_by(&["seal".to_owned()]));
    }

    #[test]
    fn a_text_that_occurs_once_is_replaced() {
        assert_eq!(change("b();\n", "").apply("a();\nb();\nc();\n").unwrap(), "a();\nc();\n");
        assert_eq!(change("b", "é").apply("abc").unwrap(), "aéc");
    }

    #[test]
    fn a_text_that_is_missing_or_occurs_twice_is_an_error() {
        assert!(change("d();\n", "").apply("a();\nb();\n").is_err());
        assert!(change("a();\n", "").apply("a();\na();\n").is_err());
        // Overlapping occurrences count as well.
        assert!(change("aa", "").apply("aaa").is_err());
    }

    #[test]
    fn a_change_has_to_change_something() {
        assert!(change("a", "a").apply("a").is_err());
        assert!(change("", "a").apply("b").is_err());
    }
}
