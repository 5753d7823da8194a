//! [`Queues`]: the two queues of a ring, and the system call. They are the kernel's or, with `--cfg
//! ebbtide_model`, those of a kernel in memory, which tests everything above this file.

// UNSAFETY: enter is a raw system call.
#![expect(unsafe_code, reason = "argued above")]

use std::io;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, squeue};

use super::BUFFER_GROUP;
use crate::buffer::BufferRing;
use crate::driver::enter::Wait;
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

/// What the flags and the indices of the submission queue say.
pub(super) struct QueueState {
    /// How many entries are queued.
    pub(super) queued: usize,
    /// Whether the kernel has completions that it posts only when it is entered
    /// (`IORING_SQ_TASKRUN`).
    pub(super) has_task_work: bool,
    /// Whether completions are in the overflow list (`IORING_SQ_CQ_OVERFLOW`).
    pub(super) has_overflowed: bool,
}

/// What a cancel has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Found {
    /// The request. Its final completion follows.
    Request,
    /// Nothing. The final completion was posted, or was lost.
    Nothing,
}

/// Whether an entry was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Push {
    Done,
    /// The submission queue is full.
    Full,
}

impl Queues {
    /// Puts an entry into the submission queue.
    ///
    /// # Safety
    ///
    /// What the entry points to must stay in place, and unchanged, until the final completion with
    /// its user data was collected.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> Push {
        let pushed = match self {
            // SAFETY: the caller guarantees it.
            Self::Kernel(ring) => unsafe { ring.submission().push(entry) }.is_ok(),
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.push(entry),
        };
        if pushed { Push::Done } else { Push::Full }
    }

    /// How many entries are queued, and the flags of the submission queue.
    pub(super) fn state(&mut self) -> QueueState {
        match self {
            Self::Kernel(ring) => {
                let queue = ring.submission();
                QueueState {
                    queued: queue.len(),
                    has_task_work: queue.taskrun(),
                    has_overflowed: queue.cq_overflow(),
                }
            }
            #[cfg(ebbtide_model)]
            Self::Model(model) => QueueState {
                queued: model.queued(),
                has_task_work: model.has_task_work(),
                has_overflowed: model.has_overflowed(),
            },
        }
    }

    /// Submits `queued` entries, lets the kernel post what it has ready, and waits as `wait` says. Returns
    /// how many entries were submitted.
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
                // Always GETEVENTS: with DEFER_TASKRUN, nothing is posted without it
                // (docs/kernel.md, K-RING-3).
                let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
                let ring = ring.submitter();
                let queued = u32::try_from(queued).expect("the kernel bounds queues");
                // SAFETY: `queued` entries are in the queue. The argument has the type that EXT_ARG
                // announces, and outlives the call.
                unsafe { ring.enter(queued, least, flags, Some(&arguments)) }
            }
            #[cfg(ebbtide_model)]
            Self::Model(model) => {
                let time = if let Wait::AtMost(time) = wait { Some(time) } else { None };
                model.enter(queued, least as usize, time)
            }
        }
    }

    /// Passes each completion posted so far to `take`: its user data, result and flags.
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

    /// Cancels a submitted request. The cancel itself has no completion
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
                    // It is being carried out now.
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

    /// How many completions the kernel has lost because it was out of memory. Wraps.
    pub(super) fn lost(&mut self) -> u32 {
        match self {
            Self::Kernel(ring) => ring.completion().overflow(),
            #[cfg(ebbtide_model)]
            Self::Model(model) => model.lost(),
        }
    }

    /// Registers the ring of buffers that the kernel takes from.
    ///
    /// # Safety
    ///
    /// The ring of buffers must outlive the registration.
    pub(super) unsafe fn register_buffers(&mut self, buffers: &BufferRing) -> io::Result<()> {
        match self {
            // SAFETY: the ring of buffers is page-aligned and has the given number of entries. The
            // caller guarantees that it lives long enough.
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

    /// Unregisters the ring of buffers. It fails only if none is registered.
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
