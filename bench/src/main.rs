//! The comparison of Ebbtide with loops written by hand and with other runtimes.

mod compare;
mod contestants;
mod harness;
mod load;
mod measure;
mod metric;
mod raw_ring;
mod workloads;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: ebbtide-bench COMMAND

  compare [WORKLOAD ..] [OPTION ..]        all contestants, round by round; --help tells the options
  list [--json]                            the workloads and the contestants
  measure WORKLOAD CONTESTANT [SCALE]      one measurement in a fresh process, as JSON on stdout";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["compare", ref rest @ ..] => compare::run(rest),
        ["list"] => {
            list();
            ExitCode::SUCCESS
        }
        ["list", "--json"] => {
            println!("{}", workloads::to_json());
            ExitCode::SUCCESS
        }
        ["measure", workload, contestant, ref rest @ ..] => {
            let scale = rest.first().and_then(|scale| scale.parse().ok()).unwrap_or(1.0);
            measure::run(workload, contestant, scale)
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn list() {
    println!("workloads");
    for workload in workloads::all() {
        println!("  {:20} {}", workload.name, workload.about);
    }
    println!("contestants");
    for contestant in contestants::all() {
        println!("  {:20} {}", contestant.name, contestant.about);
    }
}
