//! The ring of a kernel with `IORING_SETUP_DEFER_TASKRUN`. It models what `io_uring_enter(2)` does
//! with entries, requests, completions and the overflow list, as measured on Linux 6.18, and on older
//! versions where [`Version`](crate::Version) says so.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use crate::coverage::Event;
use crate::entry::{self, Entry, Reserved};
use crate::world::World;

/// `IORING_CQE_F_BUFFER` and `IORING_CQE_F_MORE`.
pub(crate) const HAS_BUFFER: u32 = 1 << 0;
pub(crate) const MORE: u32 = 1 << 1;
/// The position of the buffer id in the flags of a completion.
pub(crate) const BUFFER_SHIFT: u32 = 16;

/// The two queues of a ring, and what is in flight between them.
pub(crate) struct Queues {
    submission_entries: usize,
    completion_entries: usize,
    submission: VecDeque<Entry>,
    completion: VecDeque<Completion>,
    overflow: VecDeque<Completion>,
    pub(crate) requests: Vec<Request>,
    /// User data of requests that have work to do. An enter does it.
    work: VecDeque<u64>,
    /// Targets of cancels that were not in flight. Ids are not used twice, so such a target may not
    /// be submitted later.
    missed: Vec<u64>,
    /// How many completions were lost.
    lost: u32,
    /// True exactly while no enter has reported the last loss.
    has_lost: bool,
    /// True exactly while a write to the eventfd was not posted.
    pub(crate) is_signalled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

impl Completion {
    pub(crate) fn buffer(&self) -> Option<u16> {
        (self.flags & HAS_BUFFER != 0).then_some((self.flags >> BUFFER_SHIFT) as u16)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) user_data: u64,
    pub(crate) kind: Kind,
    /// True once a cancel was carried out. The next completion is the final one.
    is_cancelled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Receive {
        socket: usize,
        reserved: Reserved,
        tells_true_length: bool,
    },
    /// A poll for space to send from a socket.
    Room {
        socket: usize,
    },
    /// The multishot poll of the eventfd.
    Watch,
}

/// Whether there was space for a completion.
#[derive(PartialEq, Eq)]
pub(crate) enum Posted {
    Yes,
    No,
}

impl Queues {
    pub(crate) fn new(submission_entries: usize, completion_entries: usize) -> Self {
        Self {
            submission_entries,
            completion_entries,
            submission: VecDeque::new(),
            completion: VecDeque::new(),
            overflow: VecDeque::new(),
            requests: Vec::new(),
            work: VecDeque::new(),
            missed: Vec::new(),
            lost: 0,
            has_lost: false,
            is_signalled: false,
        }
    }

    pub(crate) fn queued(&self) -> usize {
        self.submission.len()
    }

    pub(crate) fn posted(&self) -> usize {
        self.completion.len()
    }

    pub(crate) fn has_overflowed(&self) -> bool {
        !self.overflow.is_empty()
    }

    pub(crate) fn lost(&self) -> u32 {
        self.lost
    }

    pub(crate) fn has_task_work(&self) -> bool {
        !self.work.is_empty()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.requests.len()
    }

    fn find(&self, user_data: u64) -> Option<usize> {
        self.requests.iter().position(|request| request.user_data == user_data)
    }

    fn remove(&mut self, user_data: u64) {
        self.requests.retain(|request| request.user_data != user_data);
        self.work.retain(|waiting| *waiting != user_data);
    }

    pub(crate) fn schedule(&mut self, user_data: u64) {
        if !self.work.contains(&user_data) {
            self.work.push_back(user_data);
        }
    }

    pub(crate) fn receive_of(&self, socket: usize) -> Option<u64> {
        let is_it = |request: &&Request| matches!(request.kind, Kind::Receive { socket: of, .. } if of == socket);
        self.requests.iter().find(is_it).map(|request| request.user_data)
    }
}

impl World {
    /// Queues an entry, if there is space.
    pub(crate) fn push(&mut self, entry: Result<Entry, String>) -> bool {
        self.call();
        let entry = match entry {
            Ok(entry) => entry,
            Err(what) => {
                self.violate(format!("the model does not support {what}"));
                return true;
            }
        };
        if self.queues.submission.len() >= self.queues.submission_entries {
            self.note(Event::SubmissionFull);
            return false;
        }
        self.tell(format_args!("pushed: {:?} {:#x}", entry.request, entry.user_data));
        self.queues.submission.push_back(entry);
        true
    }

    /// `io_uring_enter(2)`, with `IORING_ENTER_GETEVENTS`.
    pub(crate) fn enter(
        &mut self,
        queued: usize,
        least: usize,
        time: Option<Duration>,
    ) -> io::Result<usize> {
        self.call();
        self.check_pool();
        self.check_provided();
        if self.is_broken() {
            self.queues.submission.clear();
            return Ok(queued);
        }
        if self.queues.has_overflowed() && self.choices.chance(5) {
            self.note(Event::Busy);
            self.tell(format_args!("enter: EBUSY"));
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let mut count = queued.min(self.queues.submission.len());
        if count > 0 && self.choices.chance(self.refusals) {
            // There is no memory for a request. Entries that are not submitted stay queued.
            count = self.choices.below(count);
            if count == 0 {
                self.note(Event::NoMemory);
                self.tell(format_args!("enter: EAGAIN"));
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            self.note(Event::Partial);
        }
        for _ in 0..count {
            if let Some(entry) = self.queues.submission.pop_front() {
                self.submit(entry);
            }
        }
        self.tell(format_args!("enter: {count} of {queued} submitted, least {least}, {time:?}"));
        self.run_work();
        self.flush();
        let submitted = |errno| match count {
            0 => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(count),
        };
        if count < queued {
            // In this case the kernel does not wait.
            return Ok(count);
        }
        if self.queues.posted() >= least {
            return Ok(count);
        }
        self.note(Event::Slept);
        let end = time.map(|time| self.elapsed() + time);
        while self.queues.posted() < least && !self.is_broken() {
            if self.choices.chance(3) {
                self.note(Event::Interrupted);
                self.tell(format_args!("enter: EINTR"));
                return submitted(libc::EINTR);
            }
            if let Some(end) = end
                && self.elapsed() >= end
            {
                self.note(Event::TimedOut);
                self.tell(format_args!("enter: ETIME"));
                return submitted(libc::ETIME);
            }
            if self.queues.has_task_work() {
                // Does the deferred work.
                self.run_work();
                self.flush();
                continue;
            }
            if std::mem::take(&mut self.queues.has_lost) {
                self.note(Event::LossTold);
                self.tell(format_args!("enter: EBADR"));
                return submitted(libc::EBADR);
            }
            self.check_asleep(time);
            if self.can_move() {
                self.make_move();
                let micros = self.choices.below(100) as u64;
                self.pass(Duration::from_micros(micros));
                if let Some(end) = end
                    && self.choices.chance(10)
                {
                    let left = end.saturating_sub(self.elapsed());
                    self.pass(left / 4 + Duration::from_micros(1));
                }
            } else if self.is_awaited() {
                // Nothing else will happen, so the main future continues.
                self.wake_root();
            } else if let Some(end) = end {
                let left = end.saturating_sub(self.elapsed());
                self.pass(left);
            } else {
                self.violate("the thread sleeps for ever".into());
            }
            self.run_work();
            self.flush();
        }
        Ok(count)
    }

    fn submit(&mut self, entry: Entry) {
        let Entry { user_data, request } = entry;
        if !matches!(request, entry::Request::Cancel { .. })
            && self.queues.find(user_data).is_some()
        {
            self.violate(format!("the id {user_data:#x} was used again while it was in flight"));
            return;
        }
        if self.queues.missed.contains(&user_data) {
            self.violate(format!("{user_data:#x} was submitted after its cancel"));
            return;
        }
        let kind = match request {
            entry::Request::Cancel { target } => return self.cancel(user_data, target),
            entry::Request::Receive { descriptor, template, flags } => {
                let Some(socket) = self.find_socket(descriptor) else { return };
                let reserved = entry::read_template(template);
                self.note(Event::Armed);
                let tells_true_length = flags & libc::MSG_TRUNC != 0;
                Kind::Receive { socket, reserved, tells_true_length }
            }
            entry::Request::Poll { descriptor, multi: false, .. } => {
                if self.sockets.iter().any(|socket| socket.placeholder == Some(descriptor)) {
                    // A poll of what replaced a closed socket. It is always ready.
                    return self.post_final(user_data, i32::from(libc::POLLOUT), 0);
                }
                let Some(socket) = self.find_socket(descriptor) else { return };
                Kind::Room { socket }
            }
            entry::Request::Poll { descriptor, multi: true, .. } => {
                self.eventfd = crate::ring::duplicate(descriptor);
                Kind::Watch
            }
        };
        if let Kind::Receive { socket, .. } = kind
            && self.queues.receive_of(socket).is_some()
        {
            self.violate(format!("socket {socket}: a second receive was armed"));
            return;
        }
        let request = Request { user_data, kind, is_cancelled: false };
        self.queues.requests.push(request);
        match kind {
            Kind::Room { socket } => self.begin_room(user_data, socket),
            Kind::Watch => {
                self.take_eventfd();
                // A write before the poll was armed counts as well.
                self.queues.is_signalled = self.was_written;
                self.attempt(user_data);
            }
            Kind::Receive { .. } => self.attempt(user_data),
        }
    }

    fn find_socket(&mut self, descriptor: i32) -> Option<usize> {
        let found = self.sockets.iter().position(|socket| socket.descriptor == Some(descriptor));
        if found.is_none() {
            self.violate(format!(
                "an entry names the descriptor {descriptor}, which is not a socket"
            ));
        }
        found
    }

    fn cancel(&mut self, user_data: u64, target: u64) {
        let Some(at) = self.queues.find(target) else {
            self.note(Event::CancelLate);
            self.queues.missed.push(target);
            self.tell(format_args!("cancel: {target:#x} is not in flight"));
            return self.post_final(user_data, -libc::ENOENT, 0);
        };
        if let Kind::Receive { socket, .. } = self.queues.requests[at].kind {
            let is_readable = self.sockets[socket].is_readable();
            // Either the delivery or the cancel comes first.
            if is_readable && self.choices.chance(50) {
                self.note(Event::DeliveryFirst);
                self.attempt(target);
            } else {
                self.note(if is_readable { Event::CancelFirst } else { Event::CancelIdle });
            }
        }
        // The delivery may have ended the receive.
        let found = self.queues.find(target);
        if let Some(at) = found {
            self.queues.requests[at].is_cancelled = true;
            self.queues.schedule(target);
        }
        let result = if found.is_some() { 0 } else { -libc::ENOENT };
        self.post_final(user_data, result, 0);
    }

    /// Does the work of requests.
    fn run_work(&mut self) {
        let mut work: Vec<u64> = self.queues.work.drain(..).collect();
        self.choices.shuffle(&mut work);
        for user_data in work {
            if self.choices.chance(3) {
                // The work becomes ready only now. The next enter does it.
                if let Some(at) = self.queues.find(user_data)
                    && self.queues.requests[at].is_cancelled
                {
                    self.note(Event::CancelDeferred);
                }
                self.queues.schedule(user_data);
            } else {
                self.attempt(user_data);
            }
        }
    }

    fn attempt(&mut self, user_data: u64) {
        let Some(at) = self.queues.find(user_data) else { return };
        let request = self.queues.requests[at];
        if request.is_cancelled {
            return self.end(user_data, -libc::ECANCELED, 0);
        }
        match request.kind {
            Kind::Receive { socket, reserved, tells_true_length } => {
                self.receive(user_data, socket, reserved, tells_true_length);
            }
            Kind::Room { .. } => self.end_room(user_data),
            Kind::Watch => self.post_wakeup(user_data),
        }
    }

    /// `IORING_REGISTER_SYNC_CANCEL`. Returns whether there was something to cancel.
    pub(crate) fn cancel_now(&mut self, target: u64) -> bool {
        self.call();
        let found = self.queues.find(target);
        self.tell(format_args!("cancel now: {target:#x}, {found:?}"));
        if let Some(at) = found {
            self.queues.requests[at].is_cancelled = true;
            self.queues.schedule(target);
        }
        found.is_some()
    }

    /// Ends a request.
    pub(crate) fn end(&mut self, user_data: u64, result: i32, flags: u32) {
        let kind = self.queues.find(user_data).map(|at| self.queues.requests[at].kind);
        self.queues.remove(user_data);
        let completion = Completion { user_data, result, flags };
        if self.is_lost(completion) {
            if let Some(Kind::Receive { socket, .. }) = kind
                && completion.buffer().is_some()
            {
                // The datagram that was taken for it is lost as well.
                let buffer_size = self.buffer_size;
                self.sockets[socket].lose_last(buffer_size);
            }
            return;
        }
        self.post_final(user_data, result, flags);
    }

    /// Whether the kernel has no memory for a completion that does not fit.
    fn is_lost(&mut self, completion: Completion) -> bool {
        let is_full = self.queues.completion.len() >= self.queues.completion_entries;
        // The error of a socket would be lost with it, and the world does not count errors.
        let has_no_error = completion.result >= 0
            || [libc::ECANCELED, libc::ENOBUFS, libc::EAGAIN].contains(&-completion.result);
        if self.losses_left == 0
            || !(is_full || self.queues.has_overflowed())
            || !has_no_error
            || !self.choices.chance(30)
        {
            return false;
        }
        self.losses_left -= 1;
        self.note(Event::Lost);
        self.tell(format_args!("LOSES {completion:?}"));
        self.queues.lost += 1;
        self.queues.has_lost = true;
        true
    }

    /// Posts the only completion of a request.
    fn post_final(&mut self, user_data: u64, result: i32, flags: u32) {
        let completion = Completion { user_data, result, flags };
        if self.post(completion) == Posted::No {
            self.note(Event::Overflowed);
            self.tell(format_args!("overflows: {completion:?}"));
            self.queues.overflow.push_back(completion);
        }
    }

    /// Posts a completion, if there is space and no other one waits for space.
    pub(crate) fn post(&mut self, completion: Completion) -> Posted {
        let is_full = self.queues.completion.len() >= self.queues.completion_entries;
        if is_full || self.queues.has_overflowed() {
            return Posted::No;
        }
        self.tell(format_args!("posts: {completion:?}"));
        self.queues.completion.push_back(completion);
        Posted::Yes
    }

    fn flush(&mut self) {
        while self.queues.completion.len() < self.queues.completion_entries {
            let Some(completion) = self.queues.overflow.pop_front() else { return };
            self.note(Event::Flushed);
            self.tell(format_args!("flushes: {completion:?}"));
            self.queues.completion.push_back(completion);
        }
    }

    /// The program's side takes a completion.
    pub(crate) fn take_completion(&mut self) -> Option<Completion> {
        let completion = self.queues.completion.pop_front()?;
        if let Some(id) = completion.buffer() {
            self.buffers.hand_over(id);
        }
        Some(completion)
    }
}
