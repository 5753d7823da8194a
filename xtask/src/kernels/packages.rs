//! [`Archive`]: Debian's packages, through an apt with lists and a cache of its own.
//!
//! Kernels come from several releases of Debian, none of which this machine need have among its
//! sources. Packages are downloaded and unpacked, not installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::Architecture;

/// Between them they have the kernels 5.10, 6.1, 6.12, and newer ones.
const SOURCES: [&str; 6] = [
    "http://deb.debian.org/debian bullseye main",
    "http://deb.debian.org/debian-security bullseye-security main",
    "http://deb.debian.org/debian bookworm main",
    "http://deb.debian.org/debian-security bookworm-security main",
    "http://deb.debian.org/debian bookworm-backports main",
    "http://deb.debian.org/debian trixie-backports main",
];

const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

pub(crate) struct Archive {
    folder: PathBuf,
    /// All kernels, the newest last.
    kernels: Vec<Kernel>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    package: String,
    /// As in `6.1.0-50`.
    pub(crate) version: String,
}

impl Kernel {
    /// Kernels for virtual machines only: they are small, and need no modules to boot.
    fn of_package(package: &str, suffix: &str) -> Option<Self> {
        let version = package.strip_prefix("linux-image-")?.strip_suffix(suffix)?;
        let is_version =
            version.starts_with(|c: char| c.is_ascii_digit()) && numbers(version).len() > 2;
        is_version.then(|| Self { package: package.to_owned(), version: version.to_owned() })
    }

    /// Whether it is one of `series`, such as 6.1.
    fn is_of(&self, series: &str) -> bool {
        numbers(&self.version).starts_with(&numbers(series))
    }

    /// Whether this kernel has all that is needed of io_uring (docs/kernel.md, K-RING-1).
    pub(crate) fn has_ring(&self) -> bool {
        numbers(&self.version) >= numbers(super::OLDEST)
    }
}

/// The numbers in a version, by which versions are in order.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

impl Archive {
    /// Fetches the lists of packages.
    pub(crate) fn open(shell: &Shell, folder: &Path, architecture: Architecture) -> Result<Self> {
        let folder = folder.join("packages");
        fs::create_dir_all(folder.join("lists/partial"))?;
        let lines = SOURCES.map(|source| format!("deb [signed-by={KEYS}] {source}\n"));
        fs::write(folder.join("sources.list"), lines.concat())?;
        fs::write(folder.join("apt.conf"), configuration(&folder, architecture))?;
        let mut archive = Self { folder, kernels: Vec::new() };
        let suffix = format!("-cloud-{}", architecture.debian());
        let _settings = archive.settings(shell);
        cmd!(shell, "apt-get --quiet=2 update").run()?;
        let names = cmd!(shell, "apt-cache pkgnames linux-image-").read()?;
        archive.kernels =
            names.lines().filter_map(|name| Kernel::of_package(name, &suffix)).collect();
        archive.kernels.sort_by_key(|kernel| numbers(&kernel.version));
        Ok(archive)
    }

    fn settings<'a>(&self, shell: &'a Shell) -> xshell::PushEnv<'a> {
        shell.push_env("APT_CONFIG", self.folder.join("apt.conf"))
    }

    pub(crate) fn newest(&self) -> Result<Kernel> {
        self.kernels.last().cloned().context("Debian has no kernel")
    }

    pub(crate) fn newest_of(&self, series: &str) -> Result<Kernel> {
        let kernel = self.kernels.iter().rfind(|kernel| kernel.is_of(series)).cloned();
        kernel.with_context(|| format!("Debian has no Linux {series}"))
    }

    /// The image of a kernel, as it is booted.
    pub(crate) fn fetch_kernel(&self, shell: &Shell, kernel: &Kernel) -> Result<PathBuf> {
        let files = self.fetch(shell, &kernel.package, "./boot/vmlinuz-*")?;
        let image = shell.read_dir(files.join("boot"))?.into_iter().next();
        image.with_context(|| format!("{} has no kernel", kernel.package))
    }

    /// A shell and its commands, in one file that needs no other.
    pub(crate) fn fetch_busybox(&self, shell: &Shell) -> Result<PathBuf> {
        Ok(self.fetch(shell, "busybox-static", "./bin/busybox")?.join("bin/busybox"))
    }

    /// The folder of the files of a package whose paths look like `pattern`.
    fn fetch(&self, shell: &Shell, package: &str, pattern: &str) -> Result<PathBuf> {
        let files = self.folder.join(package);
        if files.exists() {
            return Ok(files);
        }
        let _settings = self.settings(shell);
        let unpacked = self.folder.join("partial");
        let _here = shell.push_dir(&self.folder);
        cmd!(shell, "apt-get --quiet=2 download {package}").run()?;
        let mut debs = shell.read_dir(&self.folder)?;
        debs.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let deb = debs.first().context("apt-get has downloaded nothing")?;
        shell.remove_path(&unpacked)?;
        shell.create_dir(&unpacked)?;
        let archive = unpacked.join("data.tar");
        fs::write(&archive, cmd!(shell, "dpkg-deb --fsys-tarfile {deb}").output()?.stdout)?;
        cmd!(shell, "tar --extract --file {archive} --directory {unpacked}")
            .args(["--wildcards", pattern])
            .run()?;
        shell.remove_path(&archive)?;
        shell.remove_path(deb)?;
        fs::rename(&unpacked, &files)?;
        Ok(files)
    }
}

/// Only the lists and the cache are its own: a proxy of this machine is used.
fn configuration(folder: &Path, architecture: Architecture) -> String {
    let folder = folder.display();
    let architecture = architecture.debian();
    format!(
        "APT::Architecture \"{architecture}\";\n\
         APT::Architectures {{ \"{architecture}\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         Dir::Etc::SourceList \"{folder}/sources.list\";\n\
         Dir::Etc::SourceParts \"-\";\n\
         Dir::State::Lists \"{folder}/lists\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(version: &str) -> Kernel {
        let package = format!("linux-image-{version}-cloud-amd64");
        Kernel::of_package(&package, "-cloud-amd64").unwrap()
    }

    #[test]
    fn a_series_is_not_the_beginning_of_another() {
        assert!(kernel("6.1.0-50").is_of("6.1"));
        assert!(!kernel("6.12.95+deb12").is_of("6.1"));
        assert!(kernel("6.12.95+deb12").is_of("6.12"));
    }

    #[test]
    fn versions_are_in_the_order_of_their_numbers() {
        let sorted = ["5.10.0-46", "6.1.0-9", "6.1.0-50", "6.12.90+deb12", "6.12.90+deb12.1"];
        assert!(sorted.map(numbers).is_sorted());
        assert_eq!(
            sorted.map(|version| kernel(version).has_ring()),
            [false, true, true, true, true]
        );
    }

    #[test]
    fn packages_that_are_no_kernel_for_virtual_machines_are_passed_over() {
        for package in [
            "linux-image-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.1.0-50-amd64",
            "linux-image-6.1.0-50-cloud-amd64-dbg",
            "linux-image-6.1.0-50-cloud-amd64-unsigned",
        ] {
            assert_eq!(Kernel::of_package(package, "-cloud-amd64"), None, "{package}");
        }
    }
}
