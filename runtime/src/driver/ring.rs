//! The ring itself: entries in, completions out, one `io_uring_enter` for both.
//!
//! The only file that knows io_uring's entries. Single-threaded: the ring belongs to the thread
//! that made it (`IORING_SETUP_SINGLE_ISSUER`), and is reached by `&mut`.

// UNSAFETY: pushing an entry hands raw pointers to the kernel.
#![expect(unsafe_code, reason = "argued above")]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};

use super::backend::{Entered, Wait};
use super::operation::Submission;
use super::queues::{Found, Queues, Room};
use super::recovery::{Loss, Losses, Told};
use super::table::{Finality, Id};
use crate::buffer::Pool;

/// The buffer group that the one pool is registered as.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// User data of the poll that other threads wake us through. No id has it: the table would need
/// 2^32 - 1 slots.
const WAKEUP: u64 = u64::MAX;
/// User data of cancel requests, whose own completions say nothing that the cancelled one does not.
const CANCEL: u64 = u64::MAX - 1;

pub(crate) struct Ring {
    queues: Queues,
    /// Entries for which the submission queue had no room, in order.
    backlog: VecDeque<squeue::Entry>,
    enters: u64,
    /// What other threads write to.
    eventfd: Arc<File>,
    watch: Watch,
    losses: Losses,
}

impl Ring {
    pub(super) fn new(queues: Queues, eventfd: Arc<File>) -> Self {
        let mut ring = Self {
            queues,
            backlog: VecDeque::new(),
            enters: 0,
            eventfd,
            watch: Watch::Ended,
            losses: Losses::default(),
        };
        ring.watch();
        ring
    }

    /// How often the kernel was entered.
    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// Queues a one-shot operation.
    pub(crate) fn submit(&mut self, id: Id, submission: &Submission<'_>) {
        let entry = match submission {
            Submission::Ready { descriptor, interest } => opcode::PollAdd::new(
                number(*descriptor),
                interest.poll_events().cast_unsigned().into(),
            )
            .build(),
        };
        // SAFETY: a poll names no memory, only a descriptor, which the operation keeps open.
        unsafe { self.push(entry.user_data(id.to_user_data())) };
    }

    /// Queues a multishot recvmsg into the pool (Linux 6.0).
    ///
    /// # Safety
    ///
    /// That of [`push`](Self::push), for `template`; and the pool must outlive the ring.
    pub(crate) unsafe fn receive(
        &mut self,
        id: Id,
        socket: BorrowedFd<'_>,
        template: &libc::msghdr,
    ) {
        // MSG_TRUNC: without it the header gives the length that fitted, not the true one.
        let entry = opcode::RecvMsgMulti::new(number(socket), template, BUFFER_GROUP)
            .flags(libc::MSG_TRUNC as u32)
            .build();
        // SAFETY: the caller keeps the contract.
        unsafe { self.push(entry.user_data(id.to_user_data())) };
    }

    /// Asks for the end of what `id` names, whose final completion still comes.
    pub(crate) fn cancel(&mut self, id: Id) {
        self.cancel_user_data(id.to_user_data());
    }

    fn cancel_user_data(&mut self, user_data: u64) {
        let entry = opcode::AsyncCancel::new(user_data).build();
        // SAFETY: a cancel names no memory.
        unsafe { self.push(entry.user_data(CANCEL)) };
    }

    /// Polls the eventfd until told otherwise: a completion for every write (Linux 5.13).
    fn watch(&mut self) {
        self.watch = Watch::Armed;
        let entry = opcode::PollAdd::new(number(self.eventfd.as_fd()), libc::POLLIN as u32)
            .multi(true)
            .build();
        // SAFETY: a poll names no memory, only a descriptor, which `self` keeps open.
        unsafe { self.push(entry.user_data(WAKEUP)) };
    }

    /// Asks for the end of the poll of the eventfd.
    pub(crate) fn stop_watching(&mut self) {
        match self.watch {
            Watch::Armed => {
                self.watch = Watch::Ending;
                self.cancel_user_data(WAKEUP);
            }
            Watch::Suspended => self.watch = Watch::Ending,
            Watch::Ending | Watch::Ended => {}
        }
    }

    /// Whether the poll of the eventfd is in flight.
    pub(crate) fn is_watching(&self) -> bool {
        self.watch != Watch::Ended
    }

    /// Queues an entry. It counts as in flight from now on, whatever the next enter returns.
    ///
    /// # Safety
    ///
    /// What the entry points to must stay where it is, and untouched, until the final completion
    /// with its user data was collected.
    unsafe fn push(&mut self, entry: squeue::Entry) {
        // Never past entries that wait already: a cancel must follow what it cancels.
        if self.backlog.is_empty() && self.push_entry(&entry) == Room::Yes {
            return;
        }
        self.backlog.push_back(entry);
    }

    fn push_entry(&mut self, entry: &squeue::Entry) -> Room {
        // SAFETY: the caller of `push` answers for what the entry points to, also where it went
        // through the backlog.
        unsafe { self.queues.push(entry) }
    }

    fn empty_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if self.push_entry(&entry) == Room::No {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Cancels at once what `id` names, which the kernel must have: nothing is queued.
    pub(super) fn cancel_now(&mut self, id: Id) -> io::Result<Found> {
        self.queues.cancel_now(id.to_user_data())
    }

    /// Ends the poll of the eventfd, until [`resume_watch`](Self::resume_watch).
    pub(super) fn suspend_watch(&mut self) -> io::Result<()> {
        if self.watch == Watch::Armed {
            self.watch = Watch::Suspended;
        }
        self.queues.cancel_now(WAKEUP).map(drop)
    }

    /// Begins the poll of the eventfd again, of which the kernel has nothing any more.
    pub(super) fn resume_watch(&mut self) {
        match self.watch {
            Watch::Suspended => self.watch(),
            Watch::Armed | Watch::Ending | Watch::Ended => self.watch = Watch::Ended,
        }
    }

    /// Registers the buffers of `pool` that nobody holds anew. No receive is in flight.
    ///
    /// # Safety
    ///
    /// The pool must outlive the ring.
    pub(super) unsafe fn replace_buffers(&mut self, pool: &Pool) -> io::Result<()> {
        self.queues.unregister_buffers();
        pool.take_all_back();
        let buffers = pool.ring().expect("a ring has a pool that the kernel fills");
        // SAFETY: the caller keeps the contract.
        unsafe { self.queues.register_buffers(buffers) }
    }

    /// How many completions the kernel has lost.
    pub(crate) fn lost(&self) -> u64 {
        self.losses.count()
    }

    /// Submits what was pushed, lets the kernel post what it has ready, and waits if asked to: one
    /// system call, or none if there is nothing to do.
    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<Entered> {
        loop {
            self.empty_backlog();
            let queued = self.queues.submission().queued;
            // While entries wait for room in the queue, the enter only makes room.
            let wait = if self.backlog.is_empty() { wait } else { Wait::No };
            if wait == Wait::No && !self.has_work() {
                return Ok(Entered::Done);
            }
            self.enters += 1;
            let entered = self.queues.enter(queued, wait);
            let told = match &entered {
                Err(error) if error.raw_os_error() == Some(libc::EBADR) => Told::Yes,
                _ => Told::No,
            };
            if self.losses.note(self.queues.lost(), told) == Loss::New {
                return Ok(Entered::CompletionLost);
            }
            let submitted = match entered {
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

    /// Hands each completion posted so far to `accept`: the id, the result, the buffer that was
    /// filled, and whether there will be more.
    pub(crate) fn collect(&mut self, mut accept: impl FnMut(Id, i32, Option<u16>, Finality)) {
        let mut watch_ended = false;
        self.queues.each_completion(|user_data, result, flags| {
            let finality = if cqueue::more(flags) { Finality::More } else { Finality::Final };
            match user_data {
                WAKEUP => watch_ended |= finality == Finality::Final,
                CANCEL => {}
                user_data => {
                    let id = Id::from_user_data(user_data);
                    accept(id, result, cqueue::buffer_select(flags), finality);
                }
            }
        });
        if watch_ended {
            match self.watch {
                Watch::Armed => self.watch(),
                Watch::Suspended => {}
                Watch::Ending | Watch::Ended => self.watch = Watch::Ended,
            }
        }
    }

    /// Whether completions wait to be collected, here or in the kernel's overflow list.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.queues.is_empty() || self.queues.submission().has_overflowed
    }

    /// Whether entering the kernel now would do something: it has completions that it posts only
    /// then, or requests are queued.
    pub(crate) fn has_work(&mut self) -> bool {
        let queue = self.queues.submission();
        let is_queued = queue.queued > 0 || !self.backlog.is_empty();
        is_queued || queue.has_task_work || queue.has_overflowed
    }

    /// Ends the ring: unregisters the pool, then closes the descriptor.
    pub(crate) fn close(self) {
        // Closing the ring would undo it as well, but asynchronously.
        self.queues.unregister_buffers();
    }
}

/// The poll of the eventfd.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    Armed,
    /// Nothing is known of it, because a completion was lost; it is to be begun again.
    Suspended,
    /// A cancel was pushed; the final completion has not been collected.
    Ending,
    Ended,
}

fn number(descriptor: BorrowedFd<'_>) -> Fd {
    Fd(descriptor.as_raw_fd())
}

/// Which failures of `io_uring_enter(2)` are part of life.
fn sort(error: io::Error) -> io::Result<Entered> {
    match error.raw_os_error() {
        // A signal, or the time is over: nothing was lost. Or a loss that was noticed before.
        Some(libc::EINTR | libc::ETIME | libc::EBADR) => Ok(Entered::Done),
        // No memory for a request, or completions in the overflow list have to be collected first.
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Ok(Entered::Refused),
        _ => Err(error),
    }
}

#[cfg(test)]
#[cfg(not(miri))]
impl Ring {
    /// The descriptor that a forked child would have, which keeps the ring alive. `None` where there
    /// is none.
    pub(super) fn as_in_a_child(&self) -> Option<std::os::fd::OwnedFd> {
        let descriptor = match &self.queues {
            Queues::Kernel(ring) => ring.as_raw_fd(),
            #[cfg(ebbtide_model)]
            Queues::Model(_) => return None,
        };
        // SAFETY: `self`, which owns the descriptor, keeps it open.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        Some(descriptor.try_clone_to_owned().expect("a descriptor is left"))
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::super::backend::Backend;
    use super::super::descriptor::{Interest, eventfd};
    use super::super::start::{DriverChoice, Started, start};
    use super::*;
    use crate::limits::Limits;

    /// A ring with queues of `entries` each, its pool and its eventfd; `None`, and says why, where
    /// there is no io_uring.
    fn ring(entries: usize) -> Option<(Ring, Pool, Arc<File>)> {
        let eventfd = Arc::new(eventfd().unwrap());
        let limits = Limits {
            submission_entries: entries,
            completion_entries: Some(entries),
            buffers: 8,
            buffer_size: 512,
            ..Limits::default()
        };
        match start(DriverChoice::IoUring, &limits, Arc::clone(&eventfd)) {
            Ok(Started { backend: Backend::Ring(ring), pool, .. }) => Some((ring, pool, eventfd)),
            Ok(_) => panic!("a ring was asked for"),
            Err(error) => {
                println!("skipped: {error}");
                None
            }
        }
    }

    /// Queues polls that are answered at once.
    fn submit_ready(ring: &mut Ring, eventfd: &File, count: u64) {
        let submission =
            Submission::Ready { descriptor: eventfd.as_fd(), interest: Interest::Writable };
        for number in 0..count {
            ring.submit(Id::from_user_data(number), &submission);
        }
    }

    fn count_collected(ring: &mut Ring) -> u64 {
        let mut count = 0;
        ring.collect(|_, _, _, _| count += 1);
        count
    }

    /// Fails when a runtime goes to sleep over entries that the submission queue had no room for.
    #[test]
    fn what_waited_for_room_is_submitted_before_the_sleep() {
        const COUNT: u64 = 10;
        let Some((mut ring, _pool, eventfd)) = ring(2) else { return };
        submit_ready(&mut ring, &eventfd, COUNT);
        let mut collected = 0;
        // One enter submits all; the completion queue gives them in parts.
        for _ in 0..COUNT {
            ring.enter(Wait::AtMost(Duration::from_secs(1))).unwrap();
            assert!(ring.backlog.is_empty(), "it slept, or would have");
            collected += count_collected(&mut ring);
            if collected == COUNT {
                break;
            }
        }
        assert_eq!(collected, COUNT);
        ring.close();
    }

    /// A kernel whose completions all wait in its overflow list.
    #[cfg(ebbtide_model)]
    struct Overflown;

    #[cfg(ebbtide_model)]
    impl crate::model::ModelQueues for Overflown {
        fn register_buffers(&mut self, _: u64, _: u16) {}

        fn unregister_buffers(&self) {}

        fn push(&mut self, _: &squeue::Entry) -> bool {
            true
        }

        fn queued(&self) -> usize {
            0
        }

        fn enter(&mut self, queued: usize, _: usize, _: Option<Duration>) -> io::Result<usize> {
            Ok(queued)
        }

        fn take_completions(&mut self, _: &mut dyn FnMut(u64, i32, u32)) {}

        fn cancel_now(&mut self, _: u64) -> bool {
            false
        }

        fn lost(&self) -> u32 {
            0
        }

        fn posted(&self) -> usize {
            0
        }

        fn has_overflowed(&self) -> bool {
            true
        }

        fn has_task_work(&self) -> bool {
            false
        }
    }

    /// Linux empties the list when it is entered to sleep, so that no sleep would last. Fails when
    /// a runtime passes for quiescent although there is something to collect.
    #[cfg(ebbtide_model)]
    #[test]
    fn completions_in_the_overflow_list_are_completions() {
        let eventfd = Arc::new(eventfd().unwrap());
        let mut ring = Ring::new(Queues::Model(Box::new(Overflown)), eventfd);
        assert!(ring.has_completions() && ring.has_work());
    }

    /// A completion queue that is full ends it. Fails when it is not armed again: other threads
    /// could then wake the runtime no more.
    #[test]
    fn the_poll_of_the_eventfd_outlives_a_full_completion_queue() {
        let Some((mut ring, _pool, eventfd)) = ring(2) else { return };
        ring.enter(Wait::No).unwrap();
        submit_ready(&mut ring, &eventfd, 10);
        ring.enter(Wait::No).unwrap();
        (&*eventfd).write_all(&1u64.to_ne_bytes()).unwrap();
        for _ in 0..20 {
            ring.enter(Wait::No).unwrap();
            count_collected(&mut ring);
        }
        assert!(!ring.has_completions());
        (&*eventfd).write_all(&1u64.to_ne_bytes()).unwrap();
        ring.enter(Wait::AtMost(Duration::from_secs(10))).unwrap();
        assert!(ring.has_completions(), "it is deaf");
        ring.close();
    }

    /// `IORING_UNREGISTER_PBUF_RING` of `io_uring_register(2)`.
    const UNREGISTER_BUFFERS: libc::c_uint = 23;

    /// A forked child keeps the ring alive with its copy of the descriptor. Fails when closing our
    /// own is all that takes the pool, whose memory is freed next, back from the kernel.
    #[test]
    fn the_pool_is_taken_back_although_a_child_may_hold_the_ring() {
        let Some((ring, pool, _)) = ring(2) else { return };
        let copy = ring.as_in_a_child().expect("it is a ring of the kernel");
        ring.close();
        // `struct io_uring_buf_reg`, of which only the group, 0, is read.
        let group = [0u64; 5];
        // SAFETY: the pointer names `group`, which is as long as the structure.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                copy.as_raw_fd(),
                UNREGISTER_BUFFERS,
                group.as_ptr(),
                1,
            )
        };
        assert_eq!(result, -1, "the kernel still had the pool");
        drop(pool);
    }
}
