//! Packs the file system of the guest: an archive of cpio(5), in the format `newc`, which the
//! kernel unpacks into memory before it starts `/init`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use xshell::Shell;

use super::{Architecture, Program};

/// The libraries that the programs need.
const LIBRARIES: [&str; 3] = ["libc.so.6", "libm.so.6", "libgcc_s.so.1"];

/// Some tests become another user.
const USERS: &str = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";

/// A program that takes longer is stuck, and ends. Emulated, the longest takes a quarter of that.
pub(crate) const LIMIT_S: u32 = 3_600;

/// What a Linux system has set up before somebody logs in.
const SET_UP: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin TMPDIR=/tmp EBBTIDE_TEST_PATIENCE=20
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
ip link set lo up
ulimit -n 65536
";

/// The mark of a line of `/init` on the console, which no test prints.
pub(crate) const MARK: &str = "::::";

/// The archive. `root` is the repository, parts of which the tests look for where it is here.
pub(crate) fn pack(
    shell: &Shell,
    root: &Path,
    architecture: Architecture,
    busybox: &Path,
    programs: &[Program],
    init: &str,
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    ["proc", "sys", "dev", "tmp"].iter().for_each(|folder| archive.add_folder(folder.as_ref()));
    let inside = root.strip_prefix("/").context("the repository has an absolute path")?;
    // Where cargo tells tests to put their files, and a crate from which they look for the corpus.
    let target = inside.join("target");
    for folder in [target.join("tmp"), target.join(architecture.target()).join("tmp")] {
        archive.add_folder(&folder);
    }
    archive.add_folder(&inside.join("net"));
    for folder in shell.read_dir(root.join("fuzz/corpus"))? {
        for file in shell.read_dir(folder)? {
            let path = file.strip_prefix("/").context("it is in the repository")?;
            archive.add_file(&path.to_string_lossy(), &read(&file)?);
        }
    }
    archive.add_file("bin/busybox", &read(busybox)?);
    let loader = Path::new(architecture.loader());
    let name = loader.file_name().context("a loader is a file")?.to_string_lossy();
    archive.add_file(architecture.loader(), &read(&architecture.library(shell, &name)?)?);
    for name in LIBRARIES {
        archive.add_file(&format!("lib/{name}"), &read(&architecture.library(shell, name)?)?);
    }
    for program in programs {
        archive.add_file(&program.path(), &read(&program.file)?);
    }
    archive.add_file("etc/passwd", USERS.as_bytes());
    archive.add_file("init", init.as_bytes());
    Ok(archive.finish())
}

/// The script that sets the guest up, runs `programs` one after the other, and switches it off.
pub(crate) fn init<'a>(programs: impl Iterator<Item = &'a Program>, test: Option<&str>) -> String {
    let run = |program: &Program| {
        let (name, path) = (&program.name, program.path());
        let arguments = program.arguments(test);
        format!(
            "echo; echo '{MARK} begin {name}'\n\
             timeout -s KILL {LIMIT_S} /{path} {arguments} < /dev/null 2>&1\n\
             code=$?; echo; echo \"{MARK} end $code\"\n"
        )
    };
    let runs: String = programs.map(run).collect();
    format!("{SET_UP}{runs}poweroff -f\n")
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| file.display().to_string())
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    fn add_file(&mut self, path: &str, contents: &[u8]) {
        if let Some(folder) = Path::new(path).parent() {
            self.add_folder(folder);
        }
        self.add(path, FILE, contents);
    }

    /// With those that it lies in.
    fn add_folder(&mut self, folder: &Path) {
        let mut folders: Vec<_> = folder.ancestors().collect();
        folders.reverse();
        for folder in folders.into_iter().map(|folder| folder.to_string_lossy().into_owned()) {
            if !folder.is_empty() && self.folders.insert(folder.clone()) {
                self.add(&folder, FOLDER, &[]);
            }
        }
    }

    fn add(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(contents.len()).expect("programs are smaller than 4 GiB");
        let name_size = u32::try_from(path.len()).expect("paths are short") + 1;
        // Inode, mode, user, group, links, time, size, four numbers of devices, name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").bytes()));
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// Modes: a file that can be run, and a folder, each for everybody.
const FILE: u32 = 0o100_755;
const FOLDER: u32 = 0o040_777;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_each_folder_once_before_what_is_in_it() {
        let mut archive = Archive::default();
        archive.add_file("target/deps/one", b"1");
        archive.add_file("target/deps/two", b"22");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let names: Vec<_> = text.split("070701").skip(1).map(|entry| &entry[104..]).collect();
        let names: Vec<_> = names.iter().map(|rest| rest.split('\0').next().unwrap()).collect();
        let expected =
            ["target", "target/deps", "target/deps/one", "target/deps/two", "TRAILER!!!"];
        assert_eq!(names, expected);
    }
}
