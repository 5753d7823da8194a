//! [`Generator`]: the process that makes the load.

// UNSAFETY: fork.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::os::unix::net::UnixStream;
use std::process;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::cpu::pin;
use super::fail;

pub(crate) struct Generator {
    process: Pid,
}

/// Forks the generator, which runs `load` on a CPU and ends. It gets one end of a pair of sockets,
/// through which the stages are agreed on; the caller gets the other.
///
/// A process and not a thread: its CPU time and memory are not the receiver's, and a runtime under
/// test never shares its allocator, its descriptors or its page tables.
pub(crate) fn start(
    cpu: usize,
    load: impl FnOnce(UnixStream) -> io::Result<()>,
) -> io::Result<(Generator, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let parent = nix::unistd::getpid();
    // SAFETY: `measure` calls this before any thread is made, so the child may do whatever the
    // parent may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok((Generator { process: child }, ours)),
        ForkResult::Child => {
            drop(ours);
            end_with(parent);
            pin(cpu);
            match load(theirs) {
                Ok(()) => process::exit(0),
                Err(error) => {
                    eprintln!("void measurement: load generator: {error}");
                    // The receiver may wait forever for what never comes.
                    let _ = kill(parent, Signal::SIGKILL);
                    process::exit(1)
                }
            }
        }
    }
}

/// Asks the kernel to end this process when `parent` ends.
fn end_with(parent: Pid) {
    // SAFETY: the option takes a signal's number.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if nix::unistd::getppid() != parent {
        process::exit(1);
    }
}

impl Generator {
    /// Waits for its end, which must be a success.
    pub(crate) fn join(self) {
        match waitpid(self.process, None) {
            Ok(WaitStatus::Exited(_, 0)) => {}
            other => fail(&format!("the load generator ended with {other:?}")),
        }
    }
}
