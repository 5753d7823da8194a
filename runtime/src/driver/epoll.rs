//! The driver without io_uring: edge-triggered epoll, and the retry until `EAGAIN` under the hood.
//!
//! It answers the same questions as the ring, with the same completions. A descriptor that becomes
//! ready joins the end of a queue, which is served round-robin: each time up to
//! [`DATAGRAMS_AT_ONCE`] of one socket, until `EAGAIN` takes it out; between the rounds `epoll_wait`
//! with a zero timeout lets new readiness join. An operation is attempted first, and waits for an
//! edge only after `EAGAIN`, so that no edge can be missed.

// UNSAFETY: epoll_wait has no safe form in std.
#![expect(unsafe_code, reason = "argued above")]

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::descriptor::{Interest, epoll, epoll_control};
use super::dispatch::Dispatch;
use super::enter::Wait;
use super::operation::Request;
use super::receive::{Filled, READ_BATCH, Receive, Source, Verdict};
use super::table::{Finality, Id};
use crate::buffer::Buffer;

/// Datagrams that a socket gets in its turn: about as many as a ring delivers in one enter.
const DATAGRAMS_AT_ONCE: usize = 32;

/// Events that one `epoll_wait` can report.
const EVENTS: usize = 256;

/// What the eventfd is registered as. No descriptor has this number.
const WAKEUP: u64 = u64::MAX;

pub(crate) struct Epoll {
    descriptor: OwnedFd,
    /// What other threads write to. Never read: every write is an edge.
    eventfd: Arc<File>,
    /// By number: the kernel gives the lowest that is free, so that few places are empty.
    watched: Vec<Watched>,
    /// Where each receive, and each operation that waits for an edge, is watched.
    places: HashMap<Id, RawFd>,
    /// Sockets that may have something to read, longest ready first.
    readable: VecDeque<RawFd>,
    /// Operations to be attempted.
    attempts: VecDeque<Id>,
    /// What has ended without anything having been tried, and the error that its final completion,
    /// which is to be collected, will say.
    ended: Vec<(Id, i32)>,
    events: Vec<libc::epoll_event>,
    /// What is read into; kept for its memory, empty between reads.
    buffers: Vec<Buffer>,
    /// What was read into each; says nothing between reads.
    lens: Box<[usize; READ_BATCH]>,
    waits: u64,
}

/// What is wanted of one descriptor; by default, nothing.
#[derive(Default)]
struct Watched {
    receive: Option<WatchedReceive>,
    /// True exactly while it is in `readable`.
    is_queued: bool,
    /// Operations that wait for an edge.
    waiting: Vec<(Id, Interest)>,
    /// What epoll was asked for; 0 while it does not know the descriptor.
    registered: u32,
}

struct WatchedReceive {
    id: Id,
    receive: Rc<Receive>,
    /// How many datagrams to read next time, judged by how many there were last time.
    wanted: usize,
}

impl Watched {
    /// What epoll has to be asked for.
    fn events(&self) -> u32 {
        let mut events = if self.receive.is_some() { libc::EPOLLIN } else { 0 };
        for (_, interest) in &self.waiting {
            events |= match interest {
                Interest::Readable => libc::EPOLLIN,
                Interest::Writable => libc::EPOLLOUT,
            };
        }
        if events == 0 { 0 } else { (events | libc::EPOLLET).cast_unsigned() }
    }
}

impl Epoll {
    pub(crate) fn new(eventfd: Arc<File>) -> io::Result<Self> {
        let epoll = epoll()?;
        let this = Self {
            descriptor: epoll,
            eventfd,
            watched: Vec::new(),
            places: HashMap::new(),
            readable: VecDeque::new(),
            attempts: VecDeque::new(),
            ended: Vec::new(),
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS],
            buffers: Vec::with_capacity(DATAGRAMS_AT_ONCE),
            lens: Box::new([0; READ_BATCH]),
            waits: 0,
        };
        let events = (libc::EPOLLIN | libc::EPOLLET).cast_unsigned();
        this.control(libc::EPOLL_CTL_ADD, this.eventfd.as_raw_fd(), events, WAKEUP)?;
        Ok(this)
    }

    /// How often the kernel was asked for events.
    pub(crate) fn waits(&self) -> u64 {
        self.waits
    }

    /// An operation is to be carried out, at the next `collect` if possible.
    pub(crate) fn submit(&mut self, id: Id) {
        self.attempts.push_back(id);
    }

    /// A socket is to be received from, until its pool is empty, it fails, or it is cancelled.
    pub(crate) fn receive(&mut self, id: Id, receive: Rc<Receive>) {
        let number = receive.socket().as_raw_fd();
        self.places.insert(id, number);
        let watched = self.watched_or_new(number);
        watched.receive = Some(WatchedReceive { id, receive, wanted: DATAGRAMS_AT_ONCE });
        if watched.registered & libc::EPOLLIN.cast_unsigned() == 0 {
            self.register(number);
        }
        // It may have become readable while nobody asked: the edge is gone, so it is tried.
        self.queue(number);
    }

    fn watched_or_new(&mut self, number: RawFd) -> &mut Watched {
        let at = place(number);
        if at >= self.watched.len() {
            self.watched.resize_with(at + 1, Watched::default);
        }
        &mut self.watched[at]
    }

    /// Ends what `id` names; its final completion comes with the next `collect`.
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

    /// The sink of `socket` goes: epoll must not know the descriptor any more when it is closed.
    pub(crate) fn forget(&mut self, socket: BorrowedFd<'_>) {
        self.forget_unused(socket.as_raw_fd());
    }

    /// Whether `collect` has something to do without waiting.
    pub(crate) fn has_work(&self) -> bool {
        !(self.attempts.is_empty() && self.readable.is_empty() && self.ended.is_empty())
    }

    /// Takes in readiness, and waits for it if asked to and nothing is left to do.
    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let timeout = match wait {
            _ if self.has_work() => 0,
            Wait::No => 0,
            Wait::AtMost(time) => milliseconds(time),
            Wait::Forever => -1,
        };
        self.waits += 1;
        // SAFETY: `events` has room for the number of events that is passed.
        let count = unsafe {
            libc::epoll_wait(
                self.descriptor.as_raw_fd(),
                self.events.as_mut_ptr(),
                i32::try_from(self.events.len()).expect("the list is short"),
                timeout,
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            };
        };
        for index in 0..count {
            let event = self.events[index];
            if event.u64 != WAKEUP {
                let number = RawFd::try_from(event.u64).expect("it was registered with its number");
                self.take_edge(number, event.events);
            }
        }
        Ok(())
    }

    /// A descriptor has become ready.
    fn take_edge(&mut self, number: RawFd, events: u32) {
        let Some(watched) = self.watched.get_mut(place(number)) else { return };
        let has = |wanted: i32| events & wanted.cast_unsigned() != 0;
        let failed = has(libc::EPOLLERR | libc::EPOLLHUP);
        let (readable, writable) = (failed || has(libc::EPOLLIN), failed || has(libc::EPOLLOUT));
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

    /// Carries out what is ready: completions as a ring would post them.
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
                // Anew for every wait: this also reports a readiness whose edge has passed.
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

    /// Reads a batch from a socket, and puts it back to the end of the queue unless it is empty.
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
                // One more than there were finds out that the queue is empty without another call.
                let next = if count == room { 2 * count } else { count + 1 };
                *wanted = next.min(DATAGRAMS_AT_ONCE);
                // To the pool: the socket is judged by what is free.
                self.buffers.truncate(count);
                for (buffer, len) in self.buffers.drain(..).zip(&*self.lens) {
                    let len = u32::try_from(*len).expect("the builder bounds the size of buffers");
                    dispatch
                        .receive(id, Finality::More, |_| Filled { buffer: buffer.freeze(), len });
                }
                let verdict = dispatch.end_burst();
                // An error that came between them has brought an edge of its own.
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

    /// The receive of a socket ends for a reason of its own.
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

    /// Tells epoll what is wanted of a descriptor.
    fn register(&mut self, number: RawFd) {
        let Some(watched) = self.watched.get_mut(place(number)) else { return };
        let events = watched.events();
        let operation = match (watched.registered, events) {
            (0, 0) => return,
            (0, _) => libc::EPOLL_CTL_ADD,
            (_, 0) => libc::EPOLL_CTL_DEL,
            (_, _) => libc::EPOLL_CTL_MOD,
        };
        watched.registered = events;
        let Err(error) = self.control(operation, number, events, place(number) as u64) else {
            return;
        };
        // No memory, or `fs.epoll.max_user_watches` is reached: whoever waits is told, instead of
        // waiting for ever.
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        if let Some(watched) = self.watched.get_mut(place(number)) {
            watched.registered = 0;
            let waiting = watched.waiting.drain(..).map(|(id, _)| id);
            let receive = watched.receive.take().map(|receive| receive.id);
            self.ended.extend(waiting.chain(receive).map(|id| (id, errno)));
        }
        self.places.retain(|_, place| *place != number);
    }

    /// Drops a descriptor of which nothing is wanted.
    fn forget_unused(&mut self, number: RawFd) {
        let watched = self.watched.get(place(number));
        if watched.is_some_and(|watched| watched.receive.is_none() && watched.waiting.is_empty()) {
            self.register(number);
            self.watched[place(number)] = Watched::default();
            self.readable.retain(|queued| *queued != number);
        }
    }

    fn control(&self, operation: i32, number: RawFd, events: u32, data: u64) -> io::Result<()> {
        epoll_control(self.descriptor.as_fd(), operation, number, events, data)
    }
}

/// Where a descriptor is in the list of those watched.
fn place(number: RawFd) -> usize {
    usize::try_from(number).expect("a descriptor that is open has a number")
}

/// Rounded up: a timer must not be looked at before it is due, over and over.
fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}
