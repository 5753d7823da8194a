//! [`StartError`]: why a driver could not be started, and what to do about it.

use std::fmt;
use std::fs;
use std::io;

/// Why the runtime or its io_uring driver could not be started, and what to do about it.
///
/// The [`io::Error`] of [`Builder::build`](crate::Builder::build) contains it: `error.get_ref()`
/// and `downcast_ref::<StartError>()` return it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    part: Part,
    cause: StartCause,
    errno: i32,
}

/// What could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The runtime. Another driver would not help.
    Runtime,
    /// The io_uring driver, because of this call.
    Ring(Call),
}

impl Part {
    /// The name of what the kernel refused.
    fn call(self) -> &'static str {
        match self {
            Self::Ring(call) => call.name(),
            Self::Runtime => "a system call",
        }
    }
}

/// The causes that can be distinguished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartCause {
    /// The sysctl `kernel.io_uring_disabled` is not 0 (Linux 6.6).
    DisabledBySysctl,
    /// A seccomp filter or a security module refuses the system call.
    RefusedByPolicy,
    /// The kernel has no io_uring, or the sandbox that emulates it has none.
    Absent,
    /// The kernel is too old for multishot recvmsg with a ring of buffers.
    KernelTooOld,
    /// The limit of locked memory is reached.
    LockedMemory,
    /// The limit of file descriptors is reached.
    Descriptors,
    /// There is no memory for the pool.
    PoolTooLarge,
    /// Another cause. The message contains the kernel's error.
    Other,
}

impl StartError {
    /// Returns the cause.
    #[must_use]
    pub fn cause(&self) -> StartCause {
        self.cause
    }

    /// Returns the errno of the system call that failed. The [`io::Error`] around this error has
    /// none, because it contains a message instead.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        Some(self.errno)
    }

    /// Names the cause of an error that came before a ring was asked for.
    #[cfg_attr(
        not(any(test, ebbtide_model)),
        expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")
    )]
    pub(crate) fn explain(error: io::Error) -> io::Error {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let cause = match errno {
            libc::EMFILE | libc::ENFILE => StartCause::Descriptors,
            _ => StartCause::Other,
        };
        Self { part: Part::Runtime, cause, errno }.into()
    }

    /// There is no memory for the pool.
    pub(super) fn no_memory_for_pool(error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::ENOMEM);
        Self { part: Part::Runtime, cause: StartCause::PoolTooLarge, errno }
    }

    pub(super) fn of_ring(call: Call, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let cause = match errno {
            libc::EPERM | libc::EACCES if disabled_by_sysctl() => StartCause::DisabledBySysctl,
            libc::EPERM | libc::EACCES => StartCause::RefusedByPolicy,
            libc::ENOSYS if call == Call::Setup => StartCause::Absent,
            // There is a ring, so the kernel has this call in every form that is used.
            libc::ENOSYS => StartCause::RefusedByPolicy,
            libc::EINVAL if call == Call::Enter => StartCause::RefusedByPolicy,
            libc::EINVAL => StartCause::KernelTooOld,
            libc::ENOMEM => StartCause::LockedMemory,
            libc::EMFILE | libc::ENFILE => StartCause::Descriptors,
            _ => StartCause::Other,
        };
        let part = match cause {
            StartCause::Descriptors => Part::Runtime,
            _ => Part::Ring(call),
        };
        Self { part, cause, errno }
    }
}

/// Whether the sysctl refuses io_uring: 2 refuses everybody, 1 all but the members of a group.
fn disabled_by_sysctl() -> bool {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|value| value.trim() != "0")
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.part {
            Part::Runtime => "cannot start the runtime: ",
            Part::Ring(_) => "cannot start the io_uring driver: ",
        })?;
        match self.cause {
            StartCause::DisabledBySysctl => f.write_str(
                "it is disabled by the sysctl kernel.io_uring_disabled; \
                 set it to 0, or to 1 and join the group of kernel.io_uring_group",
            ),
            StartCause::RefusedByPolicy => write!(
                f,
                "{} is refused ({}), as the default seccomp profiles of Docker and containerd \
                 refuse it; allow io_uring_setup, io_uring_enter and io_uring_register in the \
                 container's seccomp profile or security policy",
                self.part.call(),
                io::Error::from_raw_os_error(self.errno),
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
            StartCause::PoolTooLarge => write!(
                f,
                "there is no memory for the pool ({}); lower Builder::buffers or buffer_size",
                io::Error::from_raw_os_error(self.errno)
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
            StartCause::LockedMemory | StartCause::PoolTooLarge => io::ErrorKind::OutOfMemory,
            StartCause::Descriptors | StartCause::Other => {
                Self::from_raw_os_error(error.errno).kind()
            }
        };
        Self::new(kind, error)
    }
}

/// The system calls of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Setup,
    Register,
    Enter,
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Self::Setup => "io_uring_setup",
            Self::Register => "io_uring_register",
            Self::Enter => "io_uring_enter",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errno: i32) -> (StartCause, String) {
        let error = StartError::of_ring(Call::Setup, &io::Error::from_raw_os_error(errno));
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

    /// Fails when an error loses its errno, or its kind where the cause has no kind of its own.
    #[test]
    fn each_refusal_keeps_its_errno() {
        for errno in [libc::EMFILE, libc::EIO, libc::ETIMEDOUT, libc::ENOSPC] {
            let plain = || io::Error::from_raw_os_error(errno);
            let of_ring = StartError::of_ring(Call::Setup, &plain()).into();
            for error in [StartError::explain(plain()), of_ring] {
                assert_eq!(error.kind(), plain().kind(), "{error}");
                let inside = error.get_ref().and_then(|inside| inside.downcast_ref::<StartError>());
                let inside = inside.expect("a StartError");
                assert_eq!(inside.raw_os_error(), Some(errno), "{error}");
            }
        }
    }
}
