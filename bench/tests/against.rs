//! `compare --against`, with this build as the other one.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs, process};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_ebbtide-bench");

/// Compares `yield`, which needs no sockets, for two short rounds.
fn compare(against: &str, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(["compare", "yield", "--quick", "--rounds", "2", "--contestants", "ebbtide"])
        .args(["--against", against])
        .args(arguments)
        .output()
        .unwrap()
}

fn errors(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn another_build_is_a_contestant_and_every_row_has_the_ratio_to_it() {
    let file: PathBuf = env::temp_dir().join(format!("ebbtide-against-{}.json", process::id()));
    let output = compare(BINARY, &["--json", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", errors(&output));
    let table = str::from_utf8(&output.stdout).unwrap();
    assert!(table.contains("x against"), "{table}");

    let rows: Vec<Value> = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    fs::remove_file(&file).unwrap();
    let median = |contestant: &str, metric: &str| {
        let is_it = |row: &&Value| row["contestant"] == contestant && row["metric"] == metric;
        let row = rows.iter().find(is_it).expect("there is such a row");
        row["median"].as_f64().unwrap()
    };
    assert!(median("against", "cpu_per_operation") > 0.0);
    assert!(median("ebbtide", "ratio_to_against") > 0.0);
    assert!((median("against", "ratio_to_against") - 1.0).abs() < 1e-9);
}

#[test]
fn what_is_no_build_of_this_program_is_refused() {
    for other in ["/bin/true", "/bin/false", "/nowhere"] {
        let output = compare(other, &[]);
        let reason = format!("{other} is no build of this program: ");
        assert!(errors(&output).contains(&reason), "{}", errors(&output));
        assert_eq!(output.status.code(), Some(1));
    }
}
