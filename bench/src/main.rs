//! The comparison of Ebbtide with hand-written loops and with other runtimes.

mod compare;
mod contestants;
mod harness;
mod load;
mod measure;
mod metric;
mod raw_ring;
mod workloads;

use std::process::ExitCode;

use clap::Parser;

/// Compares Ebbtide with hand-written loops and with other runtimes
#[derive(Parser)]
#[command(name = "ebbtide-bench")]
enum Command {
    /// Measure all contestants, round by round
    Compare(compare::Args),
    /// List the workloads and the contestants
    List {
        /// As JSON: the workloads, with the contestants that offer each
        #[arg(long)]
        json: bool,
    },
    /// Measure once, in this process, and print the metrics as JSON
    Measure(measure::Args),
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Compare(args) => return compare::run(&args),
        Command::List { json: true } => println!("{}", workloads::to_json()),
        Command::List { json: false } => list(),
        Command::Measure(args) => return measure::run(&args),
    }
    ExitCode::SUCCESS
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

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;
    use clap::{CommandFactory, Parser};

    use super::Command;

    /// The kind of the error, and the status with which it ends the program.
    fn refusal(arguments: &str) -> (ErrorKind, i32) {
        match Command::try_parse_from(arguments.split(' ')) {
            Ok(_) => panic!("{arguments} is accepted"),
            Err(error) => (error.kind(), error.exit_code()),
        }
    }

    #[test]
    fn the_declared_arguments_do_not_contradict_each_other() {
        Command::command().debug_assert();
    }

    #[test]
    fn wrong_values_are_errors() {
        for arguments in [
            "ebbtide-bench measure spawn ebbtide fast",
            "ebbtide-bench measure spawn ebbtide 0",
            "ebbtide-bench measure spawn ebbtide inf",
            "ebbtide-bench measure spaw ebbtide",
            "ebbtide-bench measure spawn nobody",
            "ebbtide-bench compare --rounds 0",
            "ebbtide-bench compare --contestants ebbtide,nobody",
            "ebbtide-bench compare sink nothing",
        ] {
            assert_eq!(refusal(arguments), (ErrorKind::ValueValidation, 2), "{arguments}");
        }
    }

    #[test]
    fn help_is_no_error() {
        for command in ["compare", "list", "measure"] {
            let help = refusal(&format!("ebbtide-bench {command} --help"));
            assert_eq!(help, (ErrorKind::DisplayHelp, 0), "{command}");
        }
    }
}
