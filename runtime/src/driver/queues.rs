//! [`Queues`]: the two queues of a ring, and the one system call. The kernel's; or, with the
//! `--cfg ebbtide_model`, those of a kernel in memory, on which everything from `ring.rs` upwards is
//! tested.

// UNSAFETY: enter is a raw system call.
#![expect(unsafe_code, reason = "argued above")]

use std::io;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, squeue};

use super::backend::Wait;
use super::ring::BUFFER_GROUP;
use crate::buffer::BufferRing;
#[cfg(ebbtide_model)]
use crate::model::ModelQueues;

#[cfg_attr(
    ebbtide_model,
    expect(clippy::large_enum_variant, reason = "there is one of each ring, which is not moved")
)]
pub(super) enum Queues {
    Kernel(IoUring),
    #[cfg(ebbtide_model)]
    Model(Box<dyn ModelQueues>),
}

/// What there is to see of the submission queue.
pub(super) struct Submission {
    /// Entries that wait.
    pub(super) queued: usize,
    /// Whether the kernel has something to post that it posts only when it is entered
    /// (`IORING_SQ_TASKRUN`).
    pub(super) has_task_work: bool,
    /// Whether completions wait in the overflow list (`IORING_SQ_CQ_OVERFLOW`).
    pub(super) has_overflowed: bool,
}

/// What a cancel came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The request: its final completion comes.
    Request,
    /// Nothing: the final completion is posted already, or lost.
    Nothing,
}

#[derive(PartialEq, Eq)]
pub(super) enum Room {
    Yes,
    No,
}

impl Queues {
    /// Puts an entry into the submission queue.
    ///
    /// # Safety
    ///
    /// What the entry points to must stay where it is, and untouched, until the final completion
    /// with its user data was collected.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> Room {
        let pushed = match self {
            // SAFETY: the caller answers for it.
            Self::Kernel(ring) => unsafe { ring.submission().push(entry) }.is_ok(),
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.push(entry),
        };
        if pushed { Room::Yes } else { Room::No }
    }

    /// How many entries wait in the submission queue, and what its flags say.
    pub(super) fn submission(&mut self) -> Submission {
        match self {
            Self::Kernel(ring) => {
                let queue = ring.submission();
                Submission {
                    queued: queue.len(),
                    has_task_work: queue.taskrun(),
                    has_overflowed: queue.cq_overflow(),
                }
            }
            #[cfg(ebbtide_model)]
            Self::Model(model) => Submission {
                queued: model.queued(),
                has_task_work: model.has_task_work(),
                has_overflowed: model.has_overflowed(),
            },
        }
    }

    /// Submits `queued` entries, lets the kernel post what it has ready, and waits if asked to.
    /// Gives how many entries were submitted.
    pub(super) fn enter(&mut self, queued: usize, wait: Wait) -> io::Result<usize> {
        let least = u32::from(wait != Wait::No);
        match self {
            Self::Kernel(ring) => {
                let duration;
                let arguments = match wait {
                    Wait::AtMost(time) => {
                        duration = Timespec::from(time);
                        SubmitArgs::new().timespec(&duration)
                    }
                    Wait::No | Wait::Forever => SubmitArgs::new(),
                };
                // GETEVENTS always: with DEFER_TASKRUN nothing is posted without it.
                let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
                let ring = ring.submitter();
                let queued = u32::try_from(queued).expect("the kernel bounds queues");
                // SAFETY: `queued` entries are in the queue, and the argument has the type that
                // EXT_ARG announces and outlives the call.
                unsafe { ring.enter(queued, least, flags, Some(&arguments)) }
            }
            #[cfg(ebbtide_model)]
            Self::Model(model) => {
                let time = if let Wait::AtMost(time) = wait { Some(time) } else { None };
                model.enter(queued, least as usize, time)
            }
        }
    }

    /// Takes each completion posted so far: its user data, result and flags.
    pub(super) fn each_completion(&mut self, mut take: impl FnMut(u64, i32, u32)) {
        match self {
            Self::Kernel(ring) => {
                for completion in ring.completion() {
                    take(completion.user_data(), completion.result(), completion.flags());
                }
            }
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.take_completions(&mut take),
        }
    }

    /// Whether no completion is posted.
    pub(super) fn is_empty(&mut self) -> bool {
        match self {
            Self::Kernel(ring) => ring.completion().is_empty(),
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.posted() == 0,
        }
    }

    /// Cancels a request that was submitted, without a completion of its own
    /// (`IORING_REGISTER_SYNC_CANCEL`, Linux 6.0).
    pub(super) fn cancel_now(&mut self, user_data: u64) -> io::Result<Found> {
        match self {
            Self::Kernel(ring) => {
                let at_once = Some(Timespec::new());
                let request = CancelBuilder::user_data(user_data);
                let cancelled = ring.submitter().register_sync_cancel(at_once, request);
                match cancelled.as_ref().map_err(io::Error::raw_os_error) {
                    Ok(()) => Ok(Found::Request),
                    Err(Some(libc::ENOENT)) => Ok(Found::Nothing),
                    // It is being carried out just now.
                    Err(Some(libc::EALREADY | libc::ETIME | libc::EINTR)) => Ok(Found::Request),
                    Err(_) => cancelled.map(|()| Found::Request),
                }
            }
            #[cfg(ebbtide_model)]
            Self::Model(model) => Ok(match model.cancel_now(user_data) {
                true => Found::Request,
                false => Found::Nothing,
            }),
        }
    }

    /// How many completions the kernel has lost for want of memory. Wraps.
    pub(super) fn lost(&mut self) -> u32 {
        match self {
            Self::Kernel(ring) => ring.completion().overflow(),
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.lost(),
        }
    }

    /// Gives the kernel the ring of buffers to take from.
    ///
    /// # Safety
    ///
    /// The ring of buffers must outlive the registration.
    pub(super) unsafe fn register_buffers(&mut self, buffers: &BufferRing) -> io::Result<()> {
        match self {
            // SAFETY: the ring of buffers is page-aligned and has the given number of entries; the
            // caller answers for how long.
            Self::Kernel(ring) => unsafe {
                ring.submitter().register_buf_ring_with_flags(
                    buffers.address(),
                    buffers.entries(),
                    BUFFER_GROUP,
                    0,
                )
            },
            #[cfg(ebbtide_model)]
            Self::Model(model) => {
                model.register_buffers(buffers.address(), buffers.entries());
                Ok(())
            }
        }
    }

    /// Takes the pool back from the kernel. It fails only if nothing is registered.
    pub(super) fn unregister_buffers(&self) {
        match self {
            Self::Kernel(ring) => {
                let _ = ring.submitter().unregister_buf_ring(BUFFER_GROUP);
            }
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.unregister_buffers(),
        }
    }
}
