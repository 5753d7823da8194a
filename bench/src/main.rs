//! Tools of the workshop: the comparison with other runtimes (to come), and a way to run any
//! command as it would run in a default container.

mod without_io_uring;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: ebbtide-bench COMMAND

  without-io-uring PROGRAM [ARGUMENT ..]   run a program with io_uring refused, as in a container
                                           with the default seccomp profile";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["without-io-uring", program, ref rest @ ..] => {
            let error = without_io_uring::exec(program, rest);
            eprintln!("ebbtide-bench: {program}: {error}");
            ExitCode::from(2)
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
