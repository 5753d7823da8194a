//! Setting up a ring, and which features it gets.
//!
//! Features are probed by asking for them, from the best set down to the least that works. Version
//! numbers prove nothing, because vendors backport (docs/kernel.md, K-RING-1).

// UNSAFETY: registering the pool passes its address to the kernel.
#![expect(unsafe_code, reason = "argued above")]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode};

use super::Ring;
use super::queues::{Push, Queues};
use crate::buffer::Pool;
use crate::driver::enter::Wait;
use crate::driver::error::{Call, StartError};
use crate::limits::{Limits, SMALLER_RETRY_MS, START_RETRY_MS};

/// How long to wait before the kernel is asked again, if it had no memory.
const START_PAUSE: Duration = Duration::from_millis(5);

/// When the kernel runs the work that completes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskRun {
    /// Only when the ring is entered (`IORING_SETUP_DEFER_TASKRUN`, Linux 6.1).
    Deferred,
    /// Whenever the thread enters the kernel (`IORING_SETUP_COOP_TASKRUN`, Linux 5.19).
    Cooperative,
}

/// A ring that is ready for use, and what it got.
pub(in crate::driver) struct Opened {
    pub(in crate::driver) ring: Ring,
    pub(in crate::driver) task_run: TaskRun,
    /// Entries of the completion queue.
    pub(in crate::driver) completion_entries: u32,
}

impl Ring {
    /// Opens a ring within `limits` and registers `pool` with it. Other threads write to `eventfd`.
    pub(in crate::driver) fn open(
        limits: &Limits,
        pool: &Pool,
        eventfd: Arc<File>,
    ) -> Result<Opened, StartError> {
        let (queues, task_run, completion_entries) = open(limits, pool)?;
        Ok(Opened { ring: Self::new(queues, eventfd), task_run, completion_entries })
    }

    /// Makes a ring on a kernel in memory.
    #[cfg(ebbtide_model)]
    pub(in crate::driver) fn on_model(
        queues: Box<dyn crate::model::ModelQueues>,
        pool: &Pool,
        eventfd: Arc<File>,
    ) -> io::Result<Self> {
        let mut queues = Queues::Model(queues);
        register(&mut queues, pool)?;
        Ok(Self::new(queues, eventfd))
    }
}

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
        // Locked memory of rings that were just closed returns within milliseconds.
        if Instant::now() < deadline {
            thread::sleep(START_PAUSE);
            continue;
        }
        // A smaller ring loses nothing: what does not fit waits in the backlog, in the kernel's
        // overflow list, or in the socket.
        if submission_entries <= 8 {
            return Err(StartError::of_ring(call, &error));
        }
        submission_entries /= 2;
        completion_entries = (completion_entries / 2).max(submission_entries);
        // The memory of the ring that has just failed takes as long to return.
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
                    // Closing the ring would unregister it as well, but asynchronously.
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

/// The number of entries of a queue, as the kernel takes it.
fn entries(count: usize) -> u32 {
    u32::try_from(count).expect("the builder bounds queues")
}

fn setup(submission: usize, completion: usize, step: Step) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    // SINGLE_ISSUER (6.0) is asked for in every step. It also proves that there is multishot
    // recvmsg, which came with the same release and cannot be probed.
    builder.dontfork().setup_single_issuer().setup_submit_all().setup_taskrun_flag();
    builder.setup_cqsize(entries(completion.max(submission))).setup_clamp();
    match step {
        Step::Newest => builder.setup_defer_taskrun().setup_no_sqarray(),
        Step::Deferred => builder.setup_defer_taskrun(),
        Step::Cooperative => builder.setup_coop_taskrun(),
    };
    builder.build(entries(submission))
}

/// Registers the buffers of `pool`.
fn register(queues: &mut Queues, pool: &Pool) -> io::Result<()> {
    let buffers = pool.ring().expect("a ring is opened for a pool that the kernel fills");
    // SAFETY: the driver has the pool, and unregisters it before it drops the pool.
    unsafe { queues.register_buffers(buffers) }
}

/// Has the kernel carry out a request that does nothing. A sandbox may allow a ring and refuse to
/// enter it. That would otherwise show too late to use epoll.
fn try_enter(queues: &mut Queues, deadline: Instant) -> io::Result<()> {
    let nothing = opcode::Nop::new().build();
    // SAFETY: it names no memory.
    let pushed = unsafe { queues.push(&nothing) };
    assert!(pushed == Push::Done, "the queue is new, and has two entries at least");
    loop {
        let queued = queues.state().queued;
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
            // Out of memory now.
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => thread::sleep(START_PAUSE),
            _ => return Err(error),
        }
    }
}
