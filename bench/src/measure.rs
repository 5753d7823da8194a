//! `measure`: one workload with one contestant, in this process, which does nothing else. The
//! comparison starts one for each cell and round. The result goes to stdout, in JSON.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::contestants::{self, Contestant};
use crate::harness::cpu::{RECEIVER_CPU, pin};
use crate::workloads::{self, Workload};

/// Seconds after which a measurement that hangs is ended by the kernel.
const LIMIT_S: u32 = 40;

/// Descriptors of the workload with the most sockets.
const DESCRIPTORS: u64 = 32_768;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure; see `list`
    #[arg(value_name = "WORKLOAD", value_parser = workloads::parse)]
    workload: Workload,
    /// Who does it; see `list`
    #[arg(value_name = "CONTESTANT", value_parser = contestants::parse)]
    contestant: &'static Contestant,
    /// The share of the workload's datagrams, echoes or batches that is measured
    #[arg(value_name = "SCALE", default_value = "1", value_parser = scale)]
    scale: f64,
}

fn scale(text: &str) -> Result<f64, Box<dyn Error + Send + Sync>> {
    match text.parse()? {
        scale if scale > 0.0 && f64::is_finite(scale) => Ok(scale),
        _ => Err("it has to be a positive number".into()),
    }
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let &Args { ref workload, contestant, scale } = args;
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

/// Up to the hard limit, or beyond it if allowed. A workload that needs more fails.
fn raise_descriptor_limit() {
    let raised: io::Result<()> = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| {
            let wanted = DESCRIPTORS.max(soft);
            setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard))
                .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard))
        })
        .map_err(io::Error::from);
    if let Err(error) = raised {
        eprintln!("the limit of descriptors cannot be raised: {error}");
    }
}
