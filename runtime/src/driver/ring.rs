//! The ring itself: entries in, completions out, one `io_uring_enter` for both.
//!
//! The only file that knows io_uring's entries. Single-threaded: the ring belongs to the thread
//! that made it (`IORING_SETUP_SINGLE_ISSUER`), and is reached by `&mut`.

// UNSAFETY: pushing an entry hands raw pointers to the kernel, and enter is a raw system call.
#![expect(unsafe_code, reason = "argued above")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::operation::Submission;

/// The buffer group that the one pool is registered as.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// What can be asked of the ring.
pub(crate) enum Request<'a> {
    Once(Submission<'a>),
    /// A multishot recvmsg into the pool (Linux 6.0).
    Receive {
        socket: BorrowedFd<'a>,
        template: &'a libc::msghdr,
    },
    /// Every write to an eventfd: a multishot poll (Linux 5.13).
    Watch(BorrowedFd<'a>),
    /// Cancel whatever carries this user data.
    Cancel(u64),
}

impl Request<'_> {
    fn entry(&self) -> squeue::Entry {
        let number = |descriptor: &BorrowedFd<'_>| Fd(descriptor.as_raw_fd());
        match self {
            Self::Once(Submission::Send { socket, message }) => {
                opcode::SendMsg::new(number(socket), message.header())
                    .flags(libc::MSG_NOSIGNAL as u32)
                    .build()
            }
            Self::Once(Submission::Ready { descriptor, interest }) => {
                opcode::PollAdd::new(number(descriptor), interest.poll_events() as u32).build()
            }
            // MSG_TRUNC: without it the header gives the length that fitted, not the true one.
            Self::Receive { socket, template } => {
                opcode::RecvMsgMulti::new(number(socket), *template, BUFFER_GROUP)
                    .flags(libc::MSG_TRUNC as u32)
                    .build()
            }
            Self::Watch(descriptor) => {
                opcode::PollAdd::new(number(descriptor), libc::POLLIN as u32).multi(true).build()
            }
            Self::Cancel(user_data) => opcode::AsyncCancel::new(*user_data).build(),
        }
    }
}

/// How long an enter may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// Until there is a completion, or the time is over.
    AtMost(Duration),
    /// Until there is a completion.
    Forever,
}

/// How an enter went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// As asked, or cut short by a signal or the time.
    Done,
    /// The kernel had no memory for it just now; what was pushed is still queued.
    Refused,
    /// The kernel lost a completion for want of memory (`-EBADR`).
    CompletionLost,
}

pub(crate) struct Ring {
    ring: IoUring,
    /// Entries for which the submission queue had no room, in order.
    backlog: VecDeque<squeue::Entry>,
    enters: u64,
}

impl Ring {
    pub(crate) fn new(ring: IoUring) -> Self {
        Self { ring, backlog: VecDeque::new(), enters: 0 }
    }

    pub(crate) fn completion_entries(&self) -> u32 {
        self.ring.params().cq_entries()
    }

    /// How often the kernel was entered.
    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// Queues a request. It counts as in flight from now on, whatever the next enter returns.
    ///
    /// # Safety
    ///
    /// What the request points to must stay where it is, and untouched, until the final completion
    /// with this user data was collected.
    pub(crate) unsafe fn push(&mut self, user_data: u64, request: &Request<'_>) {
        let entry = request.entry().user_data(user_data);
        // Never past entries that wait already: a cancel must follow what it cancels.
        if self.backlog.is_empty() && self.push_entry(&entry) == Room::Yes {
            return;
        }
        self.backlog.push_back(entry);
    }

    fn push_entry(&mut self, entry: &squeue::Entry) -> Room {
        // SAFETY: the caller of `push` answers for what the entry points to, also where it went
        // through the backlog.
        match unsafe { self.ring.submission().push(entry) } {
            Ok(()) => Room::Yes,
            Err(_full) => Room::No,
        }
    }

    fn empty_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if self.push_entry(&entry) == Room::No {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Submits what was pushed, lets the kernel post what it has ready, and waits if asked to: one
    /// system call, or none if there is nothing to do.
    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<Entered> {
        loop {
            self.empty_backlog();
            let queued = self.ring.submission().len();
            // While entries wait for room in the queue, the enter only makes room.
            let wait = if self.backlog.is_empty() { wait } else { Wait::No };
            if wait == Wait::No && !self.has_work() {
                return Ok(Entered::Done);
            }
            let submitted = match self.enter_once(queued, wait) {
                Ok(submitted) => submitted,
                Err(error) => return sort(error),
            };
            if submitted < queued {
                return Ok(Entered::Refused);
            }
            if self.backlog.is_empty() {
                return Ok(Entered::Done);
            }
        }
    }

    fn enter_once(&mut self, queued: usize, wait: Wait) -> io::Result<usize> {
        self.enters += 1;
        let least = u32::from(wait != Wait::No);
        let duration;
        let arguments = match wait {
            Wait::AtMost(time) => {
                duration = Timespec::from(time);
                SubmitArgs::new().timespec(&duration)
            }
            Wait::No | Wait::Forever => SubmitArgs::new(),
        };
        // GETEVENTS always: with DEFER_TASKRUN nothing is posted without it.
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // SAFETY: `queued` entries are in the queue, and the argument has the type that EXT_ARG
        // announces and outlives the call.
        unsafe { self.ring.submitter().enter(queued as u32, least, flags.bits(), Some(&arguments)) }
    }

    /// The completions posted so far.
    pub(crate) fn completions(&mut self) -> cqueue::CompletionQueue<'_> {
        self.ring.completion()
    }

    /// Whether completions wait to be collected, here or in the kernel's overflow list.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.ring.submission().cq_overflow()
    }

    /// Whether entering the kernel now would do something: it has completions that it posts only
    /// then, or requests are queued.
    pub(crate) fn has_work(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Ends the ring: unregisters the pool, then closes the descriptor.
    pub(crate) fn close(self) {
        // Closing the ring would undo it as well, but asynchronously. It fails only if nothing is
        // registered.
        let _ = self.ring.submitter().unregister_buf_ring(BUFFER_GROUP);
    }
}

#[derive(PartialEq, Eq)]
enum Room {
    Yes,
    No,
}

/// Which failures of `io_uring_enter(2)` are part of life.
fn sort(error: io::Error) -> io::Result<Entered> {
    match error.raw_os_error() {
        // A signal, or the time is over: nothing was lost.
        Some(libc::EINTR | libc::ETIME) => Ok(Entered::Done),
        // No memory for a request, or completions in the overflow list have to be collected first.
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Ok(Entered::Refused),
        Some(libc::EBADR) => Ok(Entered::CompletionLost),
        _ => Err(error),
    }
}
