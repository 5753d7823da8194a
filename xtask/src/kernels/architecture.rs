//! [`Architecture`]: the names that an architecture has in each tool, and the machine that is
//! emulated for it.

use std::env::consts::ARCH;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    X86,
    Arm,
}

impl Architecture {
    /// The one that this program was built for; x86-64 where no machine is known for that.
    pub(crate) fn of_this_machine() -> Self {
        ARCH.parse().unwrap_or(Self::X86)
    }

    /// Its name in Rust.
    pub(crate) fn cargo(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm => "aarch64",
        }
    }

    pub(crate) fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.cargo())
    }

    /// Its name in Debian.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86 => "amd64",
            Self::Arm => "arm64",
        }
    }

    /// The port at which the guest's console is the emulator's standard output.
    pub(crate) fn console(self) -> &'static str {
        match self {
            Self::X86 => "ttyS0",
            Self::Arm => "ttyAMA0",
        }
    }

    /// The C library's loader, at the path that programs name.
    pub(crate) fn loader(self) -> &'static str {
        match self {
            Self::X86 => "lib64/ld-linux-x86-64.so.2",
            Self::Arm => "lib/ld-linux-aarch64.so.1",
        }
    }

    pub(crate) fn is_foreign(self) -> bool {
        self != Self::of_this_machine()
    }

    /// A program of the tool chain, such as `gcc`, for this architecture.
    pub(crate) fn tool(self, name: &str) -> String {
        match self.is_foreign() {
            true => format!("{}-linux-gnu-{name}", self.cargo()),
            false => name.to_owned(),
        }
    }

    /// The variable that tells cargo what links programs for this architecture.
    pub(crate) fn linker_variable(self) -> String {
        format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_LINKER", self.cargo().to_uppercase())
    }

    /// A file of the C library or the compiler.
    pub(crate) fn library(self, shell: &Shell, name: &str) -> Result<PathBuf> {
        let compiler = self.tool("gcc");
        let path = PathBuf::from(cmd!(shell, "{compiler} -print-file-name={name}").quiet().read()?);
        match path.is_absolute() {
            true => Ok(path),
            false => bail!("{compiler} knows no {name}"),
        }
    }

    pub(crate) fn emulator(self) -> &'static str {
        match self {
            Self::X86 => "qemu-system-x86_64",
            Self::Arm => "qemu-system-aarch64",
        }
    }

    /// The machine and the processor that are emulated.
    pub(crate) fn machine(self) -> [&'static str; 4] {
        match self {
            // With cmpxchg16b, Linux 6.12 panics at random in the allocator under QEMU 7.2.
            Self::X86 => ["-machine", "q35", "-cpu", "max,-cx16"],
            // Without pointer authentication, which is slow to emulate.
            Self::Arm => ["-machine", "virt", "-cpu", "cortex-a76"],
        }
    }

    /// Installs the emulator, and the compiler for another architecture, where they are missing.
    pub(crate) fn install_tools(self, shell: &Shell) -> Result<()> {
        let emulators = match self {
            Self::X86 => "qemu-system-x86",
            Self::Arm => "qemu-system-arm",
        };
        let mut packages = Vec::new();
        if !is_installed(shell, self.emulator()) {
            packages.push(emulators.to_owned());
        }
        if !is_installed(shell, &self.tool("gcc")) {
            packages.push(self.tool("gcc").replace(self.cargo(), &self.cargo().replace('_', "-")));
        }
        if !packages.is_empty() {
            cmd!(shell, "apt-get install --yes --no-install-recommends {packages...}").run()?;
        }
        Ok(())
    }
}

fn is_installed(shell: &Shell, program: &str) -> bool {
    cmd!(shell, "{program} --version").quiet().ignore_stdout().ignore_stderr().run().is_ok()
}

impl FromStr for Architecture {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "x86_64" => Ok(Self::X86),
            "aarch64" => Ok(Self::Arm),
            _ => bail!("{name} is none of x86_64, aarch64"),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cargo())
    }
}
