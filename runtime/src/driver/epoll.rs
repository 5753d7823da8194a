//! The driver without io_uring: edge-triggered epoll.
//!
//! It takes the same requests as the ring, and makes the same completions. A socket that becomes
//! readable joins the end of a queue, which is served in turn: each time, up to
//! [`DATAGRAMS_AT_ONCE`] datagrams are read, until `EAGAIN` removes the socket. Between the rounds,
//! `epoll_wait` with a timeout of zero lets other sockets join.
//!
//! An operation is attempted first, and waits for an edge only after `EAGAIN`, so that no edge is
//! missed (docs/kernel.md, K-EPOLL-1).

// UNSAFETY: descriptors are kept as numbers, of which the owner is elsewhere.
#![expect(unsafe_code, reason = "argued above")]

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::descriptor::Interest;
use super::dispatch::Dispatch;
use super::enter::Wait;
use super::operation::Request;
use super::receive::{Filled, READ_BATCH, Receive, Source, Verdict};
use super::table::{Finality, Id};
use crate::buffer::Buffer;

/// Maximum number of datagrams that a socket gets in its turn. A ring delivers about as many in one
/// enter.
const DATAGRAMS_AT_ONCE: usize = 32;

/// Maximum number of events that one `epoll_wait` reports.
const EVENTS: usize = 256;

/// The data with which the eventfd is registered. No descriptor has this number.
const WAKEUP: u64 = u64::MAX;

/// The longest timeout that `epoll_wait` takes. A runtime that wakes after 24 days waits again.
const LONGEST_WAIT: Duration = Duration::from_millis(i32::MAX.cast_unsigned() as u64);

pub(crate) struct Epoll {
    descriptor: OwnedFd,
    /// Kept open while it is registered. Other threads write to it. It is never read: every write
    /// is an edge.
    _eventfd: Arc<File>,
    /// By descriptor number. The kernel uses the lowest free number, so few entries are empty.
    watched: Vec<Watched>,
    /// The descriptor of each receive, and of each operation that waits for an edge.
    places: HashMap<Id, RawFd>,
    /// Sockets that may be readable, the longest ready first.
    readable: VecDeque<RawFd>,
    /// Operations to attempt.
    attempts: VecDeque<Id>,
    /// Requests that ended without an attempt, with the errno of their final completion, which
    /// `collect` makes.
    ended: Vec<(Id, i32)>,
    /// What the last wait reported.
    events: Vec<Event>,
    /// Buffers to read into; empty between reads, kept for the allocation.
    buffers: Vec<Buffer>,
    /// Lengths of what was read; meaningless between reads.
    lens: Box<[usize; READ_BATCH]>,
    waits: u64,
}

/// What is requested of one descriptor. By default, nothing.
#[derive(Default)]
struct Watched {
    receive: Option<WatchedReceive>,
    /// True exactly while it is in `readable`.
    is_queued: bool,
    /// Operations that wait for an edge.
    waiting: Vec<(Id, Interest)>,
    /// The events that epoll watches. Empty if the descriptor is not registered.
    registered: EventFlags,
}

struct WatchedReceive {
    id: Id,
    receive: Rc<Receive>,
    /// How many datagrams to read next time. It depends on how many there were last time.
    wanted: usize,
}

impl Watched {
    /// The events that epoll has to watch.
    fn events(&self) -> EventFlags {
        let mut events = EventFlags::empty();
        events.set(EventFlags::IN, self.receive.is_some());
        for (_, interest) in &self.waiting {
            events |= match interest {
                Interest::Readable => EventFlags::IN,
                Interest::Writable => EventFlags::OUT,
            };
        }
        events.set(EventFlags::ET, !events.is_empty());
        events
    }
}

impl Epoll {
    pub(crate) fn new(eventfd: Arc<File>) -> io::Result<Self> {
        let descriptor = epoll::create(CreateFlags::CLOEXEC)?;
        let data = EventData::new_u64(WAKEUP);
        epoll::add(&descriptor, &eventfd, data, EventFlags::IN | EventFlags::ET)?;
        Ok(Self {
            descriptor,
            _eventfd: eventfd,
            watched: Vec::new(),
            places: HashMap::new(),
            readable: VecDeque::new(),
            attempts: VecDeque::new(),
            ended: Vec::new(),
            events: Vec::with_capacity(EVENTS),
            buffers: Vec::with_capacity(DATAGRAMS_AT_ONCE),
            lens: Box::new([0; READ_BATCH]),
            waits: 0,
        })
    }

    /// How often `epoll_wait` was called.
    pub(crate) fn waits(&self) -> u64 {
        self.waits
    }

    /// Queues an operation. The next `collect` attempts it.
    pub(crate) fn submit(&mut self, id: Id) {
        self.attempts.push_back(id);
    }

    /// Begins to receive from a socket, until the pool is empty, the socket fails, or the receive
    /// is cancelled.
    pub(crate) fn receive(&mut self, id: Id, receive: Rc<Receive>) {
        let number = receive.socket().as_raw_fd();
        self.places.insert(id, number);
        let watched = self.watched_or_new(number);
        watched.receive = Some(WatchedReceive { id, receive, wanted: DATAGRAMS_AT_ONCE });
        if !watched.registered.contains(EventFlags::IN) {
            self.register(number);
        }
        // It may have become readable while nobody asked. The edge has passed then, so it is tried.
        self.queue(number);
    }

    fn watched_or_new(&mut self, number: RawFd) -> &mut Watched {
        let at = place(number);
        if at >= self.watched.len() {
            self.watched.resize_with(at + 1, Watched::default);
        }
        &mut self.watched[at]
    }

    /// Cancels what `id` names. The next `collect` makes its final completion.
    pub(crate) fn cancel(&mut self, id: Id) {
        if let Some(number) = self.places.remove(&id)
            && let Some(watched) = self.watched.get_mut(place(number))
        {
            watched.waiting.retain(|(waiting, _)| *waiting != id);
            if watched.receive.as_ref().is_some_and(|receive| receive.id == id) {
                watched.receive = None;
            }
            self.forget_unused(number);
        }
        self.attempts.retain(|attempt| *attempt != id);
        self.ended.push((id, libc::ECANCELED));
    }

    /// The sink of `socket` was removed. epoll must no longer watch the descriptor when it is
    /// closed (docs/kernel.md, K-EPOLL-2).
    pub(crate) fn forget(&mut self, socket: BorrowedFd<'_>) {
        self.forget_unused(socket.as_raw_fd());
    }

    /// Whether `collect` has something to do without waiting.
    pub(crate) fn has_work(&self) -> bool {
        !(self.attempts.is_empty() && self.readable.is_empty() && self.ended.is_empty())
    }

    /// Collects readiness. Waits for it as `wait` says, if nothing is left to do.
    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let timeout = match wait {
            _ if self.has_work() => Some(Timespec::default()),
            Wait::No => Some(Timespec::default()),
            Wait::AtMost(time) => Some(timespec(time)),
            Wait::Forever => None,
        };
        self.waits += 1;
        self.events.clear();
        let events = spare_capacity(&mut self.events);
        match epoll::wait(&self.descriptor, events, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for index in 0..self.events.len() {
            let Event { flags, data } = self.events[index];
            if data.u64() != WAKEUP {
                let number =
                    RawFd::try_from(data.u64()).expect("it was registered with its number");
                self.take_edge(number, flags);
            }
        }
        Ok(())
    }

    /// A descriptor has become ready.
    fn take_edge(&mut self, number: RawFd, events: EventFlags) {
        let Some(watched) = self.watched.get_mut(place(number)) else { return };
        let failed = EventFlags::ERR | EventFlags::HUP;
        let readable = events.intersects(failed | EventFlags::IN);
        let writable = events.intersects(failed | EventFlags::OUT);
        watched.waiting.retain(|(id, interest)| {
            let ready = match interest {
                Interest::Readable => readable,
                Interest::Writable => writable,
            };
            if ready {
                self.attempts.push_back(*id);
                self.places.remove(id);
            }
            !ready
        });
        if readable && watched.receive.is_some() {
            self.queue(number);
        }
        self.forget_unused(number);
    }

    /// Carries out what is ready, and makes the completions that a ring would post.
    pub(crate) fn collect(&mut self, dispatch: &mut Dispatch<'_>) {
        for (id, errno) in self.ended.drain(..) {
            dispatch.accept(id, -errno, Finality::Final);
        }
        for _ in 0..self.attempts.len() {
            let Some(id) = self.attempts.pop_front() else { break };
            self.attempt(id, dispatch);
        }
        for _ in 0..self.readable.len() {
            let Some(number) = self.readable.pop_front() else { break };
            self.read(number, dispatch);
        }
    }

    fn attempt(&mut self, id: Id, dispatch: &mut Dispatch<'_>) {
        let operation = dispatch.operation(id);
        let result = match operation.attempt() {
            Ok(result) => i32::try_from(result).unwrap_or(i32::MAX),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let Request::Ready { descriptor, interest } = operation.request();
                let number = descriptor.as_raw_fd();
                self.places.insert(id, number);
                self.watched_or_new(number).waiting.push((id, interest));
                // Registered again for every wait. This also reports readiness whose edge has
                // passed.
                self.register(number);
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.attempts.push_back(id);
                return;
            }
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        dispatch.accept(id, result, Finality::Final);
    }

    /// Reads a batch from a socket. Puts the socket back at the end of the queue, unless it is
    /// empty.
    fn read(&mut self, number: RawFd, dispatch: &mut Dispatch<'_>) {
        let Some(watched) = self.watched.get_mut(place(number)) else { return };
        watched.is_queued = false;
        let Some(WatchedReceive { id, receive, wanted }) = &mut watched.receive else { return };
        let id = *id;
        while self.buffers.len() < *wanted
            && let Some(buffer) = dispatch.take_buffer()
        {
            self.buffers.push(buffer);
        }
        let room = self.buffers.len();
        if room == 0 {
            return self.end_receive(number, libc::ENOBUFS, dispatch);
        }
        let layout = receive.sink().layout();
        match receive.socket().receive_into(&mut self.buffers, layout, &mut self.lens) {
            Ok(count) => {
                // One more buffer than there were datagrams: then the read shows that the queue is
                // empty, and no second call is needed.
                let next = if count == room { 2 * count } else { count + 1 };
                *wanted = next.min(DATAGRAMS_AT_ONCE);
                // Returned to the pool first: the share of the socket depends on how many buffers
                // are free.
                self.buffers.truncate(count);
                for (buffer, len) in self.buffers.drain(..).zip(&*self.lens) {
                    let len = u32::try_from(*len).expect("the builder bounds the size of buffers");
                    dispatch
                        .receive(id, Finality::More, |_| Filled { buffer: buffer.freeze(), len });
                }
                let verdict = dispatch.end_burst();
                // An error that came between the datagrams has caused an edge of its own.
                if count == room || verdict != Verdict::Keep {
                    self.queue(number);
                }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {}
                io::ErrorKind::Interrupted => self.queue(number),
                _ => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    self.end_receive(number, errno, dispatch);
                }
            },
        }
        self.buffers.clear();
    }

    /// Ends the receive of a socket with an error.
    fn end_receive(&mut self, number: RawFd, errno: i32, dispatch: &mut Dispatch<'_>) {
        let watched = self.watched.get_mut(place(number)).expect("it is being read");
        let receive = watched.receive.take().expect("it is being read");
        self.places.remove(&receive.id);
        dispatch.accept(receive.id, -errno, Finality::Final);
    }

    fn queue(&mut self, number: RawFd) {
        let Some(watched) = self.watched.get_mut(place(number)) else { return };
        if !watched.is_queued {
            watched.is_queued = true;
            self.readable.push_back(number);
        }
    }

    /// Registers with epoll what is requested of a descriptor.
    fn register(&mut self, number: RawFd) {
        let Some(watched) = self.watched.get_mut(place(number)) else { return };
        let events = watched.events();
        let registered = mem::replace(&mut watched.registered, events);
        if registered.is_empty() && events.is_empty() {
            return;
        }
        // SAFETY: it is open. What is requested of it keeps it open until the final completion
        // ("owned until final"), and `forget` comes before it is closed.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let data = EventData::new_u64(place(number) as u64);
        let result = if registered.is_empty() {
            epoll::add(&self.descriptor, descriptor, data, events)
        } else if events.is_empty() {
            epoll::delete(&self.descriptor, descriptor)
        } else {
            epoll::modify(&self.descriptor, descriptor, data, events)
        };
        let Err(errno) = result else { return };
        // Out of memory, or `fs.epoll.max_user_watches` is reached. Those that wait get the error,
        // instead of waiting for ever.
        let errno = errno.raw_os_error();
        if let Some(watched) = self.watched.get_mut(place(number)) {
            watched.registered = EventFlags::empty();
            let waiting = watched.waiting.drain(..).map(|(id, _)| id);
            let receive = watched.receive.take().map(|receive| receive.id);
            self.ended.extend(waiting.chain(receive).map(|id| (id, errno)));
        }
        self.places.retain(|_, place| *place != number);
    }

    /// Unregisters a descriptor of which nothing is requested.
    fn forget_unused(&mut self, number: RawFd) {
        let watched = self.watched.get(place(number));
        if watched.is_some_and(|watched| watched.receive.is_none() && watched.waiting.is_empty()) {
            self.register(number);
            self.watched[place(number)] = Watched::default();
            self.readable.retain(|queued| *queued != number);
        }
    }
}

/// The index of a descriptor in `watched`.
fn place(number: RawFd) -> usize {
    usize::try_from(number).expect("a descriptor that is open has a number")
}

/// The timeout for a wait of `time`. `epoll::wait` rounds it up to the milliseconds of the kernel.
fn timespec(time: Duration) -> Timespec {
    Timespec::try_from(time.min(LONGEST_WAIT)).expect("24 days are representable")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::descriptor::eventfd;
    use super::*;

    /// Fails when a timeout is rounded down: a timer is then checked again and again before it is
    /// due.
    #[test]
    #[cfg_attr(miri, ignore = "its clock does not measure the kernel's")]
    fn a_wait_is_not_shorter_than_its_time() {
        let mut epoll = Epoll::new(Arc::new(eventfd().unwrap())).unwrap();
        for time in [999_999, 1_999_999].map(Duration::from_nanos) {
            let start = Instant::now();
            epoll.enter(Wait::AtMost(time)).unwrap();
            assert!(start.elapsed() >= time, "{time:?}");
        }
    }
}
