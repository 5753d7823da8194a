//! Boots kernels of Debian in an emulator, and runs the tests on each.
//!
//! `packages` fetches a kernel, `programs` builds what runs on it, `initramfs` packs both into the
//! only file system that the guest has, `machine` boots it and reads its console, and `report`
//! prints what came of it. KVM is not used: a node `/dev/kvm` does not prove that it works.
//!
//! Takes Debian or a descendant of it: apt-get, dpkg-deb and Debian's archive keys. Packages lie in
//! `target/kernels`; nothing is installed but the emulator, and for another architecture the
//! compiler, where they are missing.

mod architecture;
mod initramfs;
mod machine;
mod packages;
mod programs;
mod report;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use self::architecture::Architecture;
use self::packages::{Archive, Kernel};
use self::programs::Program;
use self::report::Report;

/// Too old for io_uring, the oldest that has it, and the one that is recommended. The one that is
/// running comes behind them.
const SERIES: [&str; 3] = ["5.10", OLDEST, "6.12"];

/// The oldest kernel whose io_uring is used (docs/support.md).
const OLDEST: &str = "6.1";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Series of kernels, such as 6.1; unless given: 5.10, 6.1, 6.12, and the series of the
    /// running kernel
    versions: Vec<String>,
    /// Run only the programs whose name contains this word; may be given several times
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,
    /// Run only the tests whose name contains this word
    #[arg(long, value_name = "WORD")]
    test: Option<String>,
    /// Emulate a machine of this architecture: x86_64 or aarch64; the one of this machine unless
    /// given
    #[arg(long, value_name = "NAME", default_value_t = Architecture::of_this_machine())]
    architecture: Architecture,
}

/// Fails if anything fails on any kernel.
pub(crate) fn run(shell: &Shell, root: &Path, args: &Args) -> Result<()> {
    let architecture = args.architecture;
    let folder = root.join("target/kernels").join(architecture.cargo());
    architecture.install_tools(shell)?;
    let programs = programs::build(shell, &folder.join("programs"), architecture)?;
    let chosen: Vec<&Program> =
        programs.iter().filter(|program| program.is_chosen_by(&args.only)).collect();
    ensure!(!chosen.is_empty(), "no program has a name with one of {:?}", args.only);
    let archive = Archive::open(shell, &folder, architecture)?;
    let kernels = kernels(shell, &archive, &args.versions)?;
    let init = initramfs::init(chosen.iter().copied(), args.test.as_deref());
    let busybox = archive.fetch_busybox(shell)?;
    let files = initramfs::pack(shell, root, architecture, &busybox, &programs, &init)?;
    let initrd = folder.join("initramfs");
    fs::write(&initrd, files).with_context(|| initrd.display().to_string())?;
    let mut report = Report::new(&chosen);
    for kernel in &kernels {
        let image = archive.fetch_kernel(shell, kernel)?;
        let log = folder.join(format!("{}.log", kernel.version));
        println!("\n== Linux {}: {}", kernel.version, log.display());
        let boot = machine::Boot { image: &image, initrd: &initrd, log: &log };
        report.add(kernel, boot.run(architecture)?);
    }
    println!("\n{report}");
    report.result()
}

/// One kernel for each series. Where Debian has none of the running series, the newest that it has.
fn kernels(shell: &Shell, archive: &Archive, versions: &[String]) -> Result<Vec<Kernel>> {
    if !versions.is_empty() {
        return versions.iter().map(|series| archive.newest_of(series)).collect();
    }
    let mut kernels =
        SERIES.map(|series| archive.newest_of(series)).into_iter().collect::<Result<Vec<_>>>()?;
    let release = cmd!(shell, "uname -r").quiet().read()?;
    let running = series_of(&release).with_context(|| format!("{release:?} is no version"))?;
    match archive.newest_of(&running) {
        Ok(kernel) => kernels.push(kernel),
        Err(error) => {
            let newest = archive.newest()?;
            println!("{error}: taking the newest, {}", newest.version);
            kernels.push(newest);
        }
    }
    kernels.dedup();
    Ok(kernels)
}

/// `6.18` of `6.18.44-cloud`.
fn series_of(release: &str) -> Option<String> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some(format!("{}.{}", numbers.next()?, numbers.next()?))
}
