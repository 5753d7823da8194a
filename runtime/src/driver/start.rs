//! Starting a driver: which one, which features a ring gets, and what to tell somebody whose kernel
//! refuses.
//!
//! Features are probed by asking for them, from the best set down to the least that works; version
//! numbers prove nothing where vendors backport.

// UNSAFETY: registering the pool hands its address to the kernel.
#![expect(unsafe_code, reason = "argued above")]

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode};

use super::backend::{Backend, Wait};
use super::epoll::Epoll;
use super::queues::{Queues, Room};
use super::ring::Ring;
use crate::buffer::{FilledBy, Pool};
use crate::limits::{Limits, SMALLER_RETRY_MS, START_RETRY_MS};
#[cfg(ebbtide_model)]
use crate::model::ModelQueues;

/// How long to wait before the kernel is asked again for what it had no memory for.
const START_PAUSE: Duration = Duration::from_millis(5);

/// How the kernel runs the work that completes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskRun {
    /// Only when the ring is entered (`IORING_SETUP_DEFER_TASKRUN`, Linux 6.1).
    Deferred,
    /// Whenever the thread enters the kernel (`IORING_SETUP_COOP_TASKRUN`, Linux 5.19).
    Cooperative,
}

/// Which driver a runtime is to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring if the kernel has all that it needs, else epoll. The environment variable
    /// `EBBTIDE_DRIVER` (`io_uring`, `epoll` or `auto`) overrides this, and only this.
    #[default]
    Auto,
    /// io_uring, or an error that says why not.
    IoUring,
    /// Edge-triggered epoll: works everywhere.
    Epoll,
}

impl DriverChoice {
    /// What the environment makes of it.
    fn resolve(self) -> io::Result<Self> {
        match (self, env::var_os(DRIVER_VARIABLE)) {
            (Self::Auto, Some(value)) => value.to_str().and_then(Self::parse).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{DRIVER_VARIABLE}={value:?}: give io_uring, epoll or auto"),
                )
            }),
            _ => Ok(self),
        }
    }

    fn parse(value: &str) -> Option<Self> {
        match value {
            "" | "auto" => Some(Self::Auto),
            "io_uring" => Some(Self::IoUring),
            "epoll" => Some(Self::Epoll),
            _ => None,
        }
    }
}

/// Overrides [`DriverChoice::Auto`].
const DRIVER_VARIABLE: &str = "EBBTIDE_DRIVER";

/// Which driver a runtime uses, and why. `Display` says it in words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunningDriver {
    /// io_uring.
    #[non_exhaustive]
    IoUring {
        /// How the kernel runs the ring's work.
        task_run: TaskRun,
        /// Entries of the completion queue, which may be fewer than asked for where locked memory
        /// is short.
        completion_entries: u32,
    },
    /// Epoll.
    #[non_exhaustive]
    Epoll {
        /// Why it is not io_uring. `None` if epoll was asked for.
        refusal: Option<StartError>,
    },
}

impl fmt::Display for RunningDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IoUring { .. } => f.write_str("io_uring"),
            Self::Epoll { refusal: None } => f.write_str("epoll"),
            Self::Epoll { refusal: Some(error) } => write!(f, "epoll ({error})"),
        }
    }
}

/// A backend that is ready for use, and how it came out.
pub(super) struct Started {
    pub(super) backend: Backend,
    pub(super) pool: Pool,
    pub(super) running: RunningDriver,
}

/// Starts the backend that `choice` and the environment ask for.
pub(super) fn start(
    choice: DriverChoice,
    limits: &Limits,
    eventfd: Arc<File>,
) -> io::Result<Started> {
    let started = match choice.resolve()? {
        DriverChoice::Epoll => start_epoll(limits, eventfd, None)?,
        DriverChoice::IoUring => start_ring(limits, eventfd).map_err(|failure| match failure {
            Failure::Ring(error) => error.into(),
            Failure::Other(error) => error,
        })?,
        DriverChoice::Auto => match start_ring(limits, Arc::clone(&eventfd)) {
            Ok(started) => started,
            Err(Failure::Ring(error)) => start_epoll(limits, eventfd, Some(error))?,
            Err(Failure::Other(error)) => return Err(error),
        },
    };
    #[cfg(feature = "tracing")]
    tracing::info!(driver = %started.running, "the ebbtide runtime starts");
    Ok(started)
}

fn start_epoll(
    limits: &Limits,
    eventfd: Arc<File>,
    refusal: Option<StartError>,
) -> io::Result<Started> {
    Ok(Started {
        backend: Backend::Epoll(Epoll::new(eventfd).map_err(StartError::explain)?),
        pool: new_pool(limits, FilledBy::Driver)?,
        running: RunningDriver::Epoll { refusal },
    })
}

fn new_pool(limits: &Limits, filled_by: FilledBy) -> io::Result<Pool> {
    let pool = Pool::new(limits.buffers, limits.buffer_size, filled_by);
    pool.map_err(|error| StartError::no_memory_for_pool(&error).into())
}

/// Why there is no ring.
enum Failure {
    /// The kernel refuses it: epoll may do.
    Ring(StartError),
    /// Nothing would do: no memory for the pool.
    Other(io::Error),
}

fn start_ring(limits: &Limits, eventfd: Arc<File>) -> Result<Started, Failure> {
    let pool = new_pool(limits, FilledBy::Kernel).map_err(Failure::Other)?;
    let (queues, task_run, completion_entries) = open(limits, &pool).map_err(Failure::Ring)?;
    Ok(Started {
        backend: Backend::Ring(Ring::new(queues, eventfd)),
        pool,
        running: RunningDriver::IoUring { task_run, completion_entries },
    })
}

/// Starts the ring on a kernel in memory.
#[cfg(ebbtide_model)]
pub(super) fn start_model(
    queues: Box<dyn ModelQueues>,
    limits: &Limits,
    eventfd: Arc<File>,
) -> io::Result<Started> {
    let pool = new_pool(limits, FilledBy::Kernel)?;
    let mut queues = Queues::Model(queues);
    register(&mut queues, &pool)?;
    let completion_entries = u32::try_from(limits.completion_entries()).unwrap_or(u32::MAX);
    Ok(Started {
        backend: Backend::Ring(Ring::new(queues, eventfd)),
        pool,
        running: RunningDriver::IoUring { task_run: TaskRun::Deferred, completion_entries },
    })
}

/// Opens a ring within `limits` and registers `pool` with it.
fn open(limits: &Limits, pool: &Pool) -> Result<(Queues, TaskRun, u32), StartError> {
    let mut submission_entries = limits.submission_entries;
    let mut completion_entries = limits.completion_entries();
    let mut deadline = Instant::now() + Duration::from_millis(START_RETRY_MS);
    loop {
        let opened = open_once(submission_entries, completion_entries, pool, deadline);
        let (call, error) = match opened {
            Ok(opened) => return Ok(opened),
            Err(refusal) => refusal,
        };
        if error.raw_os_error() != Some(libc::ENOMEM) {
            return Err(StartError::of_ring(call, &error));
        }
        // Locked memory of rings that were just closed comes back within milliseconds.
        if Instant::now() < deadline {
            thread::sleep(START_PAUSE);
            continue;
        }
        // A smaller ring still loses nothing: what does not fit waits in the backlog, in the
        // kernel's overflow list, or in the socket.
        if submission_entries <= 8 {
            return Err(StartError::of_ring(call, &error));
        }
        submission_entries /= 2;
        completion_entries = (completion_entries / 2).max(submission_entries);
        // That of the ring that has just failed comes back no sooner.
        deadline = Instant::now() + Duration::from_millis(SMALLER_RETRY_MS);
    }
}

fn open_once(
    submission: usize,
    completion: usize,
    pool: &Pool,
    deadline: Instant,
) -> Result<(Queues, TaskRun, u32), (Call, io::Error)> {
    let mut refusal = None;
    for step in [Step::Newest, Step::Deferred, Step::Cooperative] {
        match setup(submission, completion, step) {
            Ok(ring) => {
                let completion_entries = ring.params().cq_entries();
                let mut queues = Queues::Kernel(ring);
                register(&mut queues, pool).map_err(|error| (Call::Register, error))?;
                if let Err(error) = try_enter(&mut queues, deadline) {
                    // Closing the ring would undo it as well, but asynchronously.
                    queues.unregister_buffers();
                    return Err((Call::Enter, error));
                }
                return Ok((queues, step.task_run(), completion_entries));
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = Some(error),
            Err(error) => return Err((Call::Setup, error)),
        }
    }
    Err((Call::Setup, refusal.expect("the loop ends by running out of steps only")))
}

/// The system calls that a ring needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
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

/// The entries of a queue, as the kernel takes them.
fn entries(count: usize) -> u32 {
    u32::try_from(count).expect("the builder bounds queues")
}

fn setup(submission: usize, completion: usize, step: Step) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    // SINGLE_ISSUER (6.0) is asked for at every step: it also vouches for multishot recvmsg, which
    // came with the same release and cannot be probed for.
    builder.dontfork().setup_single_issuer().setup_submit_all().setup_taskrun_flag();
    builder.setup_cqsize(entries(completion.max(submission))).setup_clamp();
    match step {
        Step::Newest => builder.setup_defer_taskrun().setup_no_sqarray(),
        Step::Deferred => builder.setup_defer_taskrun(),
        Step::Cooperative => builder.setup_coop_taskrun(),
    };
    builder.build(entries(submission))
}

/// Gives the kernel the buffers of `pool`.
fn register(queues: &mut Queues, pool: &Pool) -> io::Result<()> {
    let buffers = pool.ring().expect("a ring is opened for a pool that the kernel fills");
    // SAFETY: the driver holds the pool, and unregisters it before letting it go.
    unsafe { queues.register_buffers(buffers) }
}

/// Has the kernel carry out a request that does nothing. A sandbox may allow a ring and refuse to enter
/// it, which would be found out too late to run on epoll.
fn try_enter(queues: &mut Queues, deadline: Instant) -> io::Result<()> {
    let nothing = opcode::Nop::new().build();
    // SAFETY: it names no memory.
    let room = unsafe { queues.push(&nothing) };
    assert!(room == Room::Yes, "the queue is new, and has two entries at least");
    loop {
        let queued = queues.submission().queued;
        let entered = queues.enter(queued, Wait::AtMost(START_PAUSE));
        let mut is_done = false;
        queues.each_completion(|_, _, _| is_done = true);
        if is_done {
            return Ok(());
        }
        let error = entered.err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::ETIME));
        match error.raw_os_error() {
            _ if Instant::now() >= deadline => return Err(error),
            Some(libc::EINTR | libc::ETIME) => {}
            // No memory for it just now.
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => thread::sleep(START_PAUSE),
            _ => return Err(error),
        }
    }
}

/// Why the runtime or its io_uring driver could not be started, and what to do about it.
///
/// It is inside the [`io::Error`] that [`Builder::build`](crate::Builder::build) returns:
/// `error.get_ref()` and `downcast_ref::<StartError>()` lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    part: Part,
    cause: StartCause,
    errno: i32,
}

/// What could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The runtime: no other driver would help.
    Runtime,
    /// The io_uring driver, by this call.
    Ring(Call),
}

impl Part {
    /// What to call what the kernel refused.
    fn call(self) -> &'static str {
        match self {
            Self::Ring(call) => call.name(),
            Self::Runtime => "a system call",
        }
    }
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
    /// The pool does not fit into memory.
    PoolTooLarge,
    /// Something else; the message holds the kernel's own words.
    Other,
}

impl StartError {
    /// Which cause it was.
    pub fn cause(&self) -> StartCause {
        self.cause
    }

    /// The errno of the system call that failed. The [`io::Error`] around this one has none: an
    /// error of std holds either an errno or a message.
    pub fn raw_os_error(&self) -> Option<i32> {
        Some(self.errno)
    }

    /// Names the cause of an error that came before there was any ring to ask for.
    pub(crate) fn explain(error: io::Error) -> io::Error {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let cause = match errno {
            libc::EMFILE | libc::ENFILE => StartCause::Descriptors,
            _ => StartCause::Other,
        };
        Self { part: Part::Runtime, cause, errno }.into()
    }

    /// The pool does not fit into memory.
    fn no_memory_for_pool(error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::ENOMEM);
        Self { part: Part::Runtime, cause: StartCause::PoolTooLarge, errno }
    }

    fn of_ring(call: Call, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let cause = match errno {
            libc::EPERM | libc::EACCES if disabled_by_sysctl() => StartCause::DisabledBySysctl,
            libc::EPERM | libc::EACCES => StartCause::RefusedByPolicy,
            libc::ENOSYS if call == Call::Setup => StartCause::Absent,
            // There is a ring, so that the kernel has the call, in every form that is asked for.
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

/// Whether the sysctl is what refuses us: 2 refuses everybody, 1 those outside a group.
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

    /// Fails when an error that is explained loses its errno, or its kind where the cause has none
    /// of its own.
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
