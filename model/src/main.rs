//! Runs random programs on the kernel in memory: `cargo xtask model --help`.

use std::process::ExitCode;

#[cfg(ebbtide_model)]
fn main() -> ExitCode {
    ebbtide_model::command()
}

#[cfg(not(ebbtide_model))]
fn main() -> ExitCode {
    eprintln!("the model needs RUSTFLAGS=\"--cfg ebbtide_model\": use `cargo xtask model`");
    ExitCode::from(2)
}
