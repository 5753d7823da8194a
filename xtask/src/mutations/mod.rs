//! Takes out each safety step in turn, and reports whether its test fails.
//!
//! Each file of `tests/mutations/` takes one step out:
//!
//! ```toml
//! step = "A drained Unix socket is sealed."
//! test = "cargo test --test contract -- --exact NAME"
//!
//! [[change]]
//! file = "net/src/datagram/receive/seal.rs"
//! before = 'Family::Unix => socket.seal_by_shutdown(),'
//! after = 'Family::Unix => Ok(()),'
//! ```
//!
//! `before` must occur exactly once in `file`. Several changes apply one after the other. `test` is
//! the command for the one test that has to fail. Without `-- --exact`, one of all tests that it
//! runs has to fail. A test that hangs has also caught the mutation. If no test can notice that the
//! step is missing, the file has `expect = "missed"`, and `reason = ".."` says why.
//!
//! These are errors of the list: a `before` that does not occur exactly once, code that does not
//! compile, and a test that does not exist or fails on the unchanged code.

mod check;
mod checkout;
mod mutation;
mod report;
mod test_command;
mod trial;
mod verdict;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use self::mutation::{Change, Mutation};
use self::report::Report;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Check only that the list fits the code: each change applies, and each test exists
    #[arg(long)]
    check: bool,
    /// Take only the mutations whose name contains one of these words. By default all
    words: Vec<String>,
}

impl Args {
    pub(crate) fn check_all() -> Self {
        Self { check: true, words: Vec::new() }
    }
}

/// Fails if a mutation survived, or if the list has an error.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let mut report = Report::default();
    let mut mutations = read_all(&root.join("tests/mutations"), &mut report)?;
    mutations.retain(|mutation| mutation.is_chosen_by(&args.words));
    ensure!(!mutations.is_empty(), "no name of a mutation contains one of {:?}", args.words);
    if args.check {
        check::check(root, &mutations, &mut report);
        println!("{} mutations, {} errors", mutations.len(), report.errors());
    } else {
        trial::try_all(root, &mutations, &mut report)?;
        println!("{}", report.summary(mutations.len()));
    }
    report.result()
}

/// Reads the mutations, in the order of their names. A file that cannot be read is an error of the
/// list.
fn read_all(folder: &Path, report: &mut Report) -> Result<Vec<Mutation>> {
    let files = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = files
        .map(|file| Ok(file?.path()))
        .filter(|path| path.as_ref().map_or(true, |path| path.extension() == Some("toml".as_ref())))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    let mut mutations = Vec::new();
    for path in paths {
        match Mutation::read(&path) {
            Ok(mutation) => mutations.push(mutation),
            Err(error) => report.error(&path.display(), &format!("{error:#}")),
        }
    }
    Ok(mutations)
}

/// Returns the files that the changes touch, after the changes. They apply in order, to what `read`
/// returns.
fn changed_files(
    changes: &[Change],
    read: impl Fn(&str) -> io::Result<String>,
) -> Result<BTreeMap<&str, String>> {
    let mut files = BTreeMap::new();
    for change in changes {
        let file = change.file.as_str();
        let text = match files.remove(file) {
            Some(text) => text,
            None => read(file).with_context(|| format!("{file} cannot be read"))?,
        };
        files.insert(file, change.apply(&text)?);
    }
    Ok(files)
}

/// Groups mutations by the binaries that hold their tests.
fn by_binaries(mutations: &[Mutation]) -> BTreeMap<&str, Vec<&Mutation>> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    for mutation in mutations {
        groups.entry(mutation.test.binaries.as_str()).or_default().push(mutation);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(file: &str, before: &str, after: &str) -> Change {
        Change { file: file.to_owned(), before: before.to_owned(), after: after.to_owned() }
    }

    fn read(file: &str) -> io::Result<String> {
        match file {
            "a.rs" => Ok("one two".to_owned()),
            "b.rs" => Ok("three".to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    #[test]
    fn changes_of_one_file_apply_one_after_the_other() {
        let changes = [
            change("a.rs", "one", "two"),
            change("b.rs", "three", ""),
            change("a.rs", "two two", "four"),
        ];
        let files = changed_files(&changes, read).unwrap();
        let expected = [("a.rs", "four".to_owned()), ("b.rs", String::new())];
        assert_eq!(files, BTreeMap::from(expected));
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        assert!(changed_files(&[change("c.rs", "x", "y")], read).is_err());
    }

    #[test]
    fn tests_of_the_same_binaries_are_one_group() {
        let mutation = |name: &str, test| {
            let change = "[[change]]\nfile = 'a.rs'\nbefore = 'a'\nafter = 'b'\n";
            let text = format!("step = 'S.'\ntest = 'cargo test {test}'\n{change}");
            Mutation::parse(name.to_owned(), &text).unwrap()
        };
        let mutations = [
            mutation("1", "--lib -- --exact t"),
            mutation("2", "--test pool -- --exact t"),
            mutation("3", "--lib -- --exact u"),
        ];
        let groups = by_binaries(&mutations);
        let names = |binaries| groups[binaries].iter().map(|m| m.name.as_str()).collect::<String>();
        assert_eq!(names("cargo test --lib"), "13");
        assert_eq!(names("cargo test --test pool"), "2");
    }
}
