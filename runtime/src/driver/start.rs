//! Starting a driver: which one, and why.

use std::env;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

use super::backend::Backend;
use super::epoll::Epoll;
use super::error::StartError;
use super::ring::{Opened, Ring, TaskRun};
use crate::buffer::{FilledBy, Pool};
use crate::limits::Limits;
#[cfg(ebbtide_model)]
use crate::model::ModelQueues;

/// The driver that a runtime should use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring if the kernel supports all that is needed, otherwise epoll. The environment
    /// variable `EBBTIDE_DRIVER` (`io_uring`, `epoll` or `auto`) overrides this variant, and no
    /// other.
    #[default]
    Auto,
    /// io_uring. If it is not available, starting the runtime fails with the reason.
    IoUring,
    /// Edge-triggered epoll, which works everywhere.
    Epoll,
}

impl DriverChoice {
    /// Applies the environment variable.
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

/// The driver that a runtime uses, and why. `Display` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunningDriver {
    /// io_uring.
    #[non_exhaustive]
    IoUring {
        /// When the kernel runs the ring's work.
        task_run: TaskRun,
        /// Entries of the completion queue. They are fewer than asked for if the limit of locked
        /// memory is too low.
        completion_entries: u32,
    },
    /// Epoll.
    #[non_exhaustive]
    Epoll {
        /// Why io_uring is not used. `None` if epoll was asked for.
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

/// A backend that is ready for use, and how it was set up.
pub(super) struct Started {
    pub(super) backend: Backend,
    pub(super) pool: Pool,
    pub(super) running: RunningDriver,
}

/// Starts the backend for `choice` and the environment variable.
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
    /// The kernel refuses the ring: epoll may work.
    Ring(StartError),
    /// The pool could not be allocated: no driver would work.
    Other(io::Error),
}

fn start_ring(limits: &Limits, eventfd: Arc<File>) -> Result<Started, Failure> {
    let pool = new_pool(limits, FilledBy::Kernel).map_err(Failure::Other)?;
    let Opened { ring, task_run, completion_entries } =
        Ring::open(limits, &pool, eventfd).map_err(Failure::Ring)?;
    Ok(Started {
        backend: Backend::Ring(ring),
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
    let ring = Ring::on_model(queues, &pool, eventfd)?;
    let completion_entries = u32::try_from(limits.completion_entries()).unwrap_or(u32::MAX);
    Ok(Started {
        backend: Backend::Ring(ring),
        pool,
        running: RunningDriver::IoUring { task_run: TaskRun::Deferred, completion_entries },
    })
}
