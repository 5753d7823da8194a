//! Opening the ring: which features it gets, and what to tell somebody whose kernel refuses.
//!
//! Features are probed by asking for them, from the best set down to the least that works; version
//! numbers prove nothing where vendors backport.

// UNSAFETY: registering the pool hands its address to the kernel.
#![expect(unsafe_code, reason = "argued above")]

use std::fmt;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::IoUring;

use super::ring::{BUFFER_GROUP, Ring};
use crate::buffer::Pool;
use crate::limits::{Limits, START_RETRY_MS};

/// How the kernel runs the work that completes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskRun {
    /// Only when the ring is entered (`IORING_SETUP_DEFER_TASKRUN`, Linux 6.1).
    Deferred,
    /// Whenever the thread enters the kernel (`IORING_SETUP_COOP_TASKRUN`, Linux 5.19).
    Cooperative,
}

/// A ring that is ready for use, and how it came out.
pub(crate) struct Started {
    pub(crate) ring: Ring,
    pub(crate) task_run: TaskRun,
}

/// Opens a ring within `limits` and registers `pool` with it.
pub(crate) fn open(limits: &Limits, pool: &Pool) -> io::Result<Started> {
    let mut submission_entries = limits.submission_entries;
    let mut completion_entries = limits.completion_entries();
    let mut deadline = Instant::now() + Duration::from_millis(START_RETRY_MS);
    loop {
        let error = match open_once(submission_entries, completion_entries, pool) {
            Ok(started) => return Ok(started),
            Err(error) => error,
        };
        if error.raw_os_error() != Some(libc::ENOMEM) {
            return Err(StartError::from_kernel(&error).into());
        }
        // Locked memory of rings that were just closed comes back within milliseconds.
        if Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        // A smaller ring still loses nothing: what does not fit waits in the backlog, in the
        // kernel's overflow list, or in the socket.
        if submission_entries <= 8 {
            return Err(StartError::from_kernel(&error).into());
        }
        submission_entries /= 2;
        completion_entries = (completion_entries / 2).max(submission_entries);
        deadline = Instant::now();
    }
}

fn open_once(submission: usize, completion: usize, pool: &Pool) -> io::Result<Started> {
    let mut refusal = None;
    for step in [Step::Newest, Step::Deferred, Step::Cooperative] {
        match setup(submission, completion, step) {
            Ok(ring) => return register(ring, step.task_run(), pool),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refusal.expect("the loop ends by running out of steps only"))
}

/// The sets of features that are tried, best first.
#[derive(Clone, Copy)]
enum Step {
    /// Without the index array of the submission queue: Linux 6.6.
    Newest,
    /// Linux 6.1.
    Deferred,
    /// Linux 6.0.
    Cooperative,
}

impl Step {
    fn task_run(self) -> TaskRun {
        match self {
            Self::Newest | Self::Deferred => TaskRun::Deferred,
            Self::Cooperative => TaskRun::Cooperative,
        }
    }
}

fn setup(submission: usize, completion: usize, step: Step) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    // SINGLE_ISSUER (6.0) is asked for at every step: it also vouches for multishot recvmsg, which
    // came with the same release and cannot be probed for.
    builder.dontfork().setup_single_issuer().setup_submit_all().setup_taskrun_flag();
    builder.setup_cqsize(completion.max(submission) as u32).setup_clamp();
    match step {
        Step::Newest => builder.setup_defer_taskrun().setup_no_sqarray(),
        Step::Deferred => builder.setup_defer_taskrun(),
        Step::Cooperative => builder.setup_coop_taskrun(),
    };
    builder.build(submission as u32)
}

fn register(ring: IoUring, task_run: TaskRun, pool: &Pool) -> io::Result<Started> {
    let buffers = pool.ring();
    // SAFETY: the ring of buffers is page-aligned, has the given number of entries, and outlives
    // the registration: the driver holds the pool and unregisters it before letting it go.
    unsafe {
        ring.submitter().register_buf_ring_with_flags(
            buffers.address(),
            buffers.entries(),
            BUFFER_GROUP,
            0,
        )?;
    }
    Ok(Started { ring: Ring::new(ring), task_run })
}

/// Why the io_uring driver could not be started, and what to do about it.
///
/// It is inside the [`io::Error`] that [`Builder::build`](crate::Builder::build) returns:
/// `error.get_ref()` and `downcast_ref::<StartError>()` lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    cause: StartCause,
    errno: i32,
}

/// The causes that can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartCause {
    /// `kernel.io_uring_disabled` is not 0 (Linux 6.6).
    DisabledBySysctl,
    /// A seccomp filter or a security module refuses the system call.
    RefusedByPolicy,
    /// The kernel, or the sandbox that plays it, has no io_uring.
    Absent,
    /// The kernel is too old for multishot recvmsg into a ring of buffers.
    KernelTooOld,
    /// Locked memory is used up.
    LockedMemory,
    /// Descriptors are used up.
    Descriptors,
    /// Something else; the message holds the kernel's own words.
    Other,
}

impl StartError {
    /// Which cause it was.
    pub fn cause(&self) -> StartCause {
        self.cause
    }

    fn from_kernel(error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let cause = match errno {
            libc::EPERM | libc::EACCES if disabled_by_sysctl() => StartCause::DisabledBySysctl,
            libc::EPERM | libc::EACCES => StartCause::RefusedByPolicy,
            libc::ENOSYS => StartCause::Absent,
            libc::EINVAL => StartCause::KernelTooOld,
            libc::ENOMEM => StartCause::LockedMemory,
            libc::EMFILE | libc::ENFILE => StartCause::Descriptors,
            _ => StartCause::Other,
        };
        Self { cause, errno }
    }
}

/// Whether the sysctl is what refuses us: 2 refuses everybody, 1 those outside a group.
fn disabled_by_sysctl() -> bool {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|value| value.trim() != "0")
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot start the io_uring driver: ")?;
        match self.cause {
            StartCause::DisabledBySysctl => f.write_str(
                "it is disabled by the sysctl kernel.io_uring_disabled; \
                 set it to 0, or to 1 and join the group of kernel.io_uring_group",
            ),
            StartCause::RefusedByPolicy => f.write_str(
                "the system call is refused (EPERM), as the default seccomp profiles of Docker \
                 and containerd do; allow io_uring_setup, io_uring_enter and io_uring_register \
                 in the container's seccomp profile or security policy",
            ),
            StartCause::Absent => f.write_str(
                "this kernel has no io_uring (ENOSYS): it was built without CONFIG_IO_URING, or a \
                 sandbox such as gVisor hides it; run on a kernel that has it, or outside the sandbox",
            ),
            StartCause::KernelTooOld => {
                let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
                write!(
                    f,
                    "Linux {} lacks a feature that it needs (EINVAL): IORING_SETUP_SINGLE_ISSUER, \
                     multishot recvmsg or ring-mapped buffers; use Linux 6.1 or newer",
                    release.trim()
                )
            }
            StartCause::LockedMemory => f.write_str(
                "the limit of locked memory is reached (ENOMEM), also with a small ring; raise it \
                 with `ulimit -l` (LimitMEMLOCK= in systemd), or lower Builder::buffers, \
                 submission_entries and completion_entries",
            ),
            StartCause::Descriptors => f.write_str(
                "no file descriptor is left (EMFILE or ENFILE); raise the limit with `ulimit -n` \
                 (LimitNOFILE= in systemd), or close some",
            ),
            StartCause::Other => write!(f, "{}", io::Error::from_raw_os_error(self.errno)),
        }
    }
}

impl std::error::Error for StartError {}

impl From<StartError> for io::Error {
    fn from(error: StartError) -> Self {
        let kind = match error.cause {
            StartCause::DisabledBySysctl | StartCause::RefusedByPolicy => {
                io::ErrorKind::PermissionDenied
            }
            StartCause::Absent | StartCause::KernelTooOld => io::ErrorKind::Unsupported,
            StartCause::LockedMemory => io::ErrorKind::OutOfMemory,
            StartCause::Descriptors | StartCause::Other => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errno: i32) -> (StartCause, String) {
        let error = StartError::from_kernel(&io::Error::from_raw_os_error(errno));
        (error.cause(), error.to_string())
    }

    #[test]
    fn each_refusal_names_its_cause_and_its_remedy() {
        for (errno, cause, remedy) in [
            (libc::ENOSYS, StartCause::Absent, "CONFIG_IO_URING"),
            (libc::EINVAL, StartCause::KernelTooOld, "Linux 6.1"),
            (libc::ENOMEM, StartCause::LockedMemory, "ulimit -l"),
            (libc::EMFILE, StartCause::Descriptors, "ulimit -n"),
            (libc::ENFILE, StartCause::Descriptors, "ulimit -n"),
        ] {
            let (told_cause, message) = told(errno);
            assert_eq!(told_cause, cause);
            assert!(message.contains(remedy), "{message}");
        }
    }
}
