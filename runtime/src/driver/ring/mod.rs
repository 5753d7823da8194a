//! The ring: requests in, completions out, one `io_uring_enter` for both.
//!
//! Only this folder, and `model.rs` for tests, know io_uring's entries. The ring belongs to the
//! thread that made it (`IORING_SETUP_SINGLE_ISSUER`), and is reached by `&mut`.

// UNSAFETY: pushing an entry passes raw pointers to the kernel.
#![expect(unsafe_code, reason = "argued above")]

mod losses;
mod queues;
mod setup;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};

use self::losses::{Loss, Losses, Reported};
pub(super) use self::queues::Found;
use self::queues::{Push, Queues};
pub(super) use self::setup::Opened;
pub use self::setup::TaskRun;
use super::enter::{EnterOutcome, Wait};
use super::operation::Request;
use super::receive::Receive;
use super::table::{Finality, Id};
use crate::buffer::Pool;

/// The buffer group of the pool. There is only one. Linux 6.1 remembers how far it had come in a
/// group below 64, also when a ring is registered for it again (docs/kernel.md, K-BUF-3).
pub(crate) const BUFFER_GROUP: u16 = 64;

/// User data of the poll through which other threads wake the runtime. No id has it: the table
/// would need 2^32 - 1 slots.
const WAKEUP: u64 = u64::MAX;
/// User data of cancel requests. Their completions say nothing that those of the cancelled requests
/// do not.
const CANCEL: u64 = u64::MAX - 1;

pub(crate) struct Ring {
    queues: Queues,
    /// Entries for which the submission queue was full, in order.
    backlog: VecDeque<squeue::Entry>,
    enters: u64,
    /// Other threads write to it.
    eventfd: Arc<File>,
    watch: Watch,
    losses: Losses,
}

impl Ring {
    fn new(queues: Queues, eventfd: Arc<File>) -> Self {
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
    pub(crate) fn submit(&mut self, id: Id, request: &Request<'_>) {
        let entry = match request {
            Request::Ready { descriptor, interest } => {
                opcode::PollAdd::new(number(*descriptor), interest.poll_events()).build()
            }
        };
        self.push(entry.user_data(id.to_user_data()));
    }

    /// Queues a multishot recvmsg into the pool (Linux 6.0).
    pub(crate) fn receive(&mut self, id: Id, receive: &Receive) {
        // Without MSG_TRUNC, the header has the length that was received, not the true one
        // (docs/kernel.md, K-RECV-5).
        let entry =
            opcode::RecvMsgMulti::new(number(receive.socket()), receive.request(), BUFFER_GROUP)
                .flags(libc::MSG_TRUNC as u32)
                .build();
        self.push(entry.user_data(id.to_user_data()));
    }

    /// Cancels what `id` names. Its final completion still follows.
    pub(crate) fn cancel(&mut self, id: Id) {
        self.cancel_user_data(id.to_user_data());
    }

    fn cancel_user_data(&mut self, user_data: u64) {
        let entry = opcode::AsyncCancel::new(user_data).build();
        self.push(entry.user_data(CANCEL));
    }

    /// Polls the eventfd until cancelled, with a completion for every write (Linux 5.13).
    fn watch(&mut self) {
        self.watch = Watch::Armed;
        let entry = opcode::PollAdd::new(number(self.eventfd.as_fd()), libc::POLLIN as u32)
            .multi(true)
            .build();
        self.push(entry.user_data(WAKEUP));
    }

    /// Cancels the poll of the eventfd.
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
    fn push(&mut self, entry: squeue::Entry) {
        // Never before entries that wait: a cancel must follow what it cancels.
        if self.backlog.is_empty() && self.push_entry(&entry) == Push::Done {
            return;
        }
        self.backlog.push_back(entry);
    }

    fn push_entry(&mut self, entry: &squeue::Entry) -> Push {
        // SAFETY: owned until final. Only a receive names memory: its request, which its slot of
        // the table owns, and the buffers of the pool, which outlives the ring. Operations and
        // receives keep the descriptors open that their entries name; `self` keeps the eventfd
        // open.
        unsafe { self.queues.push(entry) }
    }

    fn empty_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if self.push_entry(&entry) == Push::Full {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Cancels what `id` names at once. Nothing may be queued: the kernel must have the request.
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

    /// Begins the poll of the eventfd again. The kernel has nothing of the former one.
    pub(super) fn resume_watch(&mut self) {
        match self.watch {
            Watch::Suspended => self.watch(),
            Watch::Armed | Watch::Ending | Watch::Ended => self.watch = Watch::Ended,
        }
    }

    /// Registers the buffers of `pool` that have no shares again. No receive is in flight.
    ///
    /// # Safety
    ///
    /// The pool must outlive the ring.
    pub(super) unsafe fn replace_buffers(&mut self, pool: &Pool) -> io::Result<()> {
        self.queues.unregister_buffers();
        pool.take_all_back();
        let buffers = pool.ring().expect("a ring has a pool that the kernel fills");
        // SAFETY: the caller guarantees it.
        unsafe { self.queues.register_buffers(buffers) }
    }

    /// How many completions the kernel has lost.
    pub(crate) fn lost(&self) -> u64 {
        self.losses.count()
    }

    /// Submits what was pushed, lets the kernel post what it has ready, and waits as `wait` says. It
    /// takes one system call, or none if there is nothing to do.
    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<EnterOutcome> {
        loop {
            self.empty_backlog();
            let queued = self.queues.state().queued;
            // While entries wait for space in the queue, the enter only makes space.
            let wait = if self.backlog.is_empty() { wait } else { Wait::No };
            if wait == Wait::No && !self.has_work() {
                return Ok(EnterOutcome::Done);
            }
            self.enters += 1;
            let entered = self.queues.enter(queued, wait);
            let reported = match &entered {
                Err(error) if error.raw_os_error() == Some(libc::EBADR) => Reported::Yes,
                _ => Reported::No,
            };
            if self.losses.note(self.queues.lost(), reported) == Loss::New {
                return Ok(EnterOutcome::CompletionLost);
            }
            let submitted = match entered {
                Ok(submitted) => submitted,
                Err(error) => return sort(error),
            };
            if submitted < queued {
                return Ok(EnterOutcome::Refused);
            }
            if self.backlog.is_empty() {
                return Ok(EnterOutcome::Done);
            }
        }
    }

    /// Passes each completion posted so far to `accept`: the id, the result, the buffer that was
    /// filled, and whether more will follow.
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

    /// Whether there are completions to collect, in the queue or in the kernel's overflow list.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.queues.is_empty() || self.queues.state().has_overflowed
    }

    /// Whether entering the kernel now would do something: it has completions that it posts only
    /// then, or requests are queued.
    pub(crate) fn has_work(&mut self) -> bool {
        let queue = self.queues.state();
        let is_queued = queue.queued > 0 || !self.backlog.is_empty();
        is_queued || queue.has_task_work || queue.has_overflowed
    }

    /// Closes the ring: unregisters the pool, then closes the descriptor.
    pub(crate) fn close(self) {
        // Closing the ring would unregister it as well, but asynchronously (docs/kernel.md,
        // K-RING-8).
        self.queues.unregister_buffers();
    }
}

/// The state of the poll of the eventfd.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    Armed,
    /// Its state is unknown because a completion was lost. It will be begun again.
    Suspended,
    /// A cancel was pushed. The final completion was not collected yet.
    Ending,
    Ended,
}

fn number(descriptor: BorrowedFd<'_>) -> Fd {
    Fd(descriptor.as_raw_fd())
}

/// Decides which errors of `io_uring_enter(2)` are expected.
fn sort(error: io::Error) -> io::Result<EnterOutcome> {
    match error.raw_os_error() {
        // A signal, or the time is over: nothing was lost. Or a loss that was noticed before.
        Some(libc::EINTR | libc::ETIME | libc::EBADR) => Ok(EnterOutcome::Done),
        // Out of memory for a request, or the overflow list has to be collected first.
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Ok(EnterOutcome::Refused),
        _ => Err(error),
    }
}

#[cfg(test)]
#[cfg(not(miri))]
impl Ring {
    /// A copy of the descriptor, as a forked child would have it, which keeps the ring alive.
    /// `None` on a kernel in memory.
    pub(super) fn as_in_a_child(&self) -> Option<std::os::fd::OwnedFd> {
        let descriptor = match &self.queues {
            Queues::Kernel(ring) => ring.as_raw_fd(),
            #[cfg(ebbtide_model)]
            Queues::Model(_) => return None,
        };
        // SAFETY: `self` owns the descriptor and keeps it open.
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

    /// A ring with queues of `entries` entries each, its pool and its eventfd. `None`, with a
    /// message, if there is no io_uring.
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
            Ok(_) => panic!("a ring was requested"),
            Err(error) => {
                println!("skipped: {error}");
                None
            }
        }
    }

    /// Queues polls that are ready at once.
    fn submit_ready(ring: &mut Ring, eventfd: &File, count: u64) {
        let request = Request::Ready { descriptor: eventfd.as_fd(), interest: Interest::Writable };
        for number in 0..count {
            ring.submit(Id::from_user_data(number), &request);
        }
    }

    fn count_collected(ring: &mut Ring) -> u64 {
        let mut count = 0;
        ring.collect(|_, _, _, _| count += 1);
        count
    }

    /// Fails when a runtime goes to sleep although entries wait for space in the submission queue.
    #[test]
    fn what_waited_for_room_is_submitted_before_the_sleep() {
        const COUNT: u64 = 10;
        let Some((mut ring, _pool, eventfd)) = ring(2) else { return };
        submit_ready(&mut ring, &eventfd, COUNT);
        let mut collected = 0;
        // One enter submits all. The completion queue takes them in parts.
        for _ in 0..COUNT {
            ring.enter(Wait::AtMost(Duration::from_secs(1))).unwrap();
            assert!(ring.backlog.is_empty(), "the ring may sleep with entries in its backlog");
            collected += count_collected(&mut ring);
            if collected == COUNT {
                break;
            }
        }
        assert_eq!(collected, COUNT);
        ring.close();
    }

    /// A kernel whose completions are all in its overflow list.
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

    /// Linux empties the list when it is entered to sleep, so no sleep would last. Fails when a
    /// runtime counts as quiescent although there are completions to collect.
    #[cfg(ebbtide_model)]
    #[test]
    fn completions_in_the_overflow_list_are_completions() {
        let eventfd = Arc::new(eventfd().unwrap());
        let mut ring = Ring::new(Queues::Model(Box::new(Overflown)), eventfd);
        assert!(ring.has_completions() && ring.has_work());
    }

    /// A full completion queue ends the poll. Fails when the poll is not armed again: other threads
    /// could then no longer wake the runtime.
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
        assert!(ring.has_completions(), "the write to the eventfd posts a completion");
        ring.close();
    }

    /// `IORING_UNREGISTER_PBUF_RING` of `io_uring_register(2)`.
    const UNREGISTER_BUFFERS: libc::c_uint = 23;

    /// A forked child keeps the ring alive by its copy of the descriptor. Fails when only closing
    /// the descriptor of this process unregisters the pool, whose memory is freed next.
    #[test]
    fn the_pool_is_taken_back_although_a_child_may_hold_the_ring() {
        let Some((ring, pool, _)) = ring(2) else { return };
        let copy = ring.as_in_a_child().expect("the ring is not a model");
        ring.close();
        // `struct io_uring_buf_reg` in words of 16 bits. Only the group is read, after an address of
        // 64 bits and a length of 32.
        let mut group = [0u16; 20];
        group[6] = BUFFER_GROUP;
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
