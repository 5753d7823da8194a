//! `measure`: one workload with one contestant, in this process, which is fresh. The comparison
//! starts one for each cell and round. The result goes to stdout, in JSON.

use std::io;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::contestants;
use crate::harness::cpu::{RECEIVER_CPU, pin};
use crate::workloads;

/// Seconds after which a measurement that hangs is ended by the kernel.
const LIMIT_S: u32 = 40;

/// Descriptors of the workload with the most sockets.
const DESCRIPTORS: u64 = 32_768;

pub(crate) fn run(workload: &str, contestant: &str, scale: f64) -> ExitCode {
    let Some(workload) = workloads::find(workload) else {
        eprintln!("there is no workload {workload}");
        return ExitCode::from(2);
    };
    let Some(contestant) = contestants::find(contestant) else {
        eprintln!("there is no contestant {contestant} in this build");
        return ExitCode::from(2);
    };
    nix::unistd::alarm::set(LIMIT_S);
    pin(RECEIVER_CPU);
    raise_descriptor_limit();
    let measured = match workload.measure(contestant, scale) {
        None => {
            eprintln!("{} does not offer {}", contestant.name, workload.name);
            return ExitCode::from(2);
        }
        Some(measured) => measured,
    };
    match measured.and_then(|metrics| Ok(serde_json::to_string(&metrics)?)) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("void measurement: {error}");
            ExitCode::FAILURE
        }
    }
}

/// As far as it may go; a workload that needs more fails by itself.
fn raise_descriptor_limit() {
    let raised: io::Result<()> = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| {
            let wanted = DESCRIPTORS.max(soft);
            setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard))
                .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard))
        })
        .map_err(io::Error::from);
    if let Err(error) = raised {
        eprintln!("the limit of descriptors stays as it is: {error}");
    }
}
