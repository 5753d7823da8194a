//! [`SendHalf`]: how a socket sends.
//!
//! A single send is one sendto(2), and so is a batch of one. A larger batch is one sendmmsg(2).
//! Each waits for buffer space as often as there is none. With coalescing, the sends of several tasks wait in the [`Coalescer`]
//! until all tasks that were ready have run. Then the socket sends them as a batch.
//!
//! ```text
//! send  -> sendto                      ── EAGAIN ──> SpaceWait ─┐
//! batch -> next_message .. -> sendmmsg ── EAGAIN ──> SpaceWait ─┤ again
//! send, coalescing -> Coalescer ── end of turn ──> as a batch <────┘
//! ```

mod coalescer;
mod future;
mod plan;
mod ready;
mod space;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use ebbtide_runtime::task::poll_send_budget;
use ebbtide_runtime::{Again, Wakes};
use socket2::SockAddr;

use self::coalescer::{Answer, Coalescer, Ticket};
pub use self::future::{SendBatch, Sending, Writable};
pub use self::plan::Transmit;
use self::plan::{Cursor, Offload, Planned, next_message};
use self::space::SpaceWait;
use super::receive::ReceiveHalf;
use super::registered::{RegisteredSocket, ended};
use crate::sys::control::TrafficClasses;
use crate::sys::message::MESSAGES_PER_CALL;

/// The sending half of a socket.
pub(crate) struct SendHalf {
    /// The longest datagram that the kernel is asked to cut out of a message. It shrinks when the
    /// kernel refuses to cut. 0: none.
    longest_segment: Cell<usize>,
    /// The traffic classes of the socket, for datagrams with an ECN codepoint of their own.
    pub(crate) traffic_classes: Cell<TrafficClasses>,
    /// Whether sends wait for each other, to leave together.
    pub(crate) coalesces: Cell<bool>,
    /// Sends that are to leave together.
    coalescer: RefCell<Coalescer>,
    /// The wait for buffer space of coalesced sends. `None` while there is space.
    space: Cell<Option<SpaceWait>>,
}

impl Default for SendHalf {
    fn default() -> Self {
        Self {
            longest_segment: Cell::new(usize::from(u16::MAX)),
            traffic_classes: Cell::default(),
            coalesces: Cell::new(false),
            coalescer: RefCell::default(),
            space: Cell::default(),
        }
    }
}

/// What a send needs besides its own half.
#[derive(Clone, Copy)]
pub(crate) struct Sends<'a> {
    pub(super) socket: &'a Rc<RegisteredSocket>,
    /// May hold the error of an earlier send, which a receive has found.
    pub(super) receive: &'a ReceiveHalf,
}

/// The progress of a batch.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The next datagram.
    at: Cursor,
    /// The kernel has refused to cut the datagrams before this place: they leave one by one.
    one_by_one: Cursor,
    /// The longest segment that may still be cut, if the kernel has just refused to cut. `None`
    /// once the datagrams have been sent one by one, which shows whether the cutting was refused or
    /// the datagrams.
    refusal: Option<usize>,
}

/// The result of sending a part of a batch.
#[derive(Debug)]
enum Step {
    /// Some were sent, and more may follow.
    Sent,
    /// There is no buffer space.
    Full,
    /// The datagram at the cursor was not sent.
    Failed(io::Error),
    /// Nothing is left to send.
    Done,
}

impl SendHalf {
    /// Sends if it is possible without waiting.
    pub(crate) fn try_send(
        &self,
        on: Sends<'_>,
        payload: &[u8],
        to: Option<&SockAddr>,
    ) -> io::Result<usize> {
        on.socket.check_open()?;
        self.flush_first(on)?;
        if let Some(error) = on.receive.take_unclaimed_error(on.socket) {
            return Err(error);
        }
        if on.socket.stands_aside() {
            return self.try_send_aside(on.socket, payload, to);
        }
        loop {
            match on.socket.socket.send(payload, to) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(len) => {
                    on.socket.registration.note_sent(1);
                    return Ok(len);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends from a socket that has stepped aside. Each datagram needs an explicit source.
    #[cold]
    fn try_send_aside(
        &self,
        socket: &RegisteredSocket,
        payload: &[u8],
        to: Option<&SockAddr>,
    ) -> io::Result<usize> {
        let transmit = match to.and_then(SockAddr::as_socket) {
            Some(to) => Transmit::to(payload, to),
            None => Transmit::new(payload),
        };
        let mut progress = Progress::default();
        loop {
            match self.send_some(socket, &[transmit], &mut progress) {
                Step::Sent => {}
                Step::Done => return Ok(payload.len()),
                Step::Full => return Err(io::ErrorKind::WouldBlock.into()),
                Step::Failed(error) => return Err(error),
            }
        }
    }

    /// Sends with a plain system call, which costs less than a single send through the ring. Waits
    /// for buffer space as often as there is none.
    fn poll_send(
        &self,
        on: Sends<'_>,
        payload: &[u8],
        to: Option<&SockAddr>,
        space: &mut Option<Box<SpaceWait>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(poll_space(space, cx))?;
            ready!(poll_send_budget(cx, payload.len()));
            match self.try_send(on, payload, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            *space = Some(Box::new(SpaceWait::new(on.socket, to)?));
        }
    }

    /// Sends the rest of a batch. Returns how many transmits were sent completely. That is all of
    /// them unless one failed.
    fn poll_send_batch(
        &self,
        on: Sends<'_>,
        transmits: &[Transmit<'_>],
        progress: &mut Progress,
        space: &mut Option<Box<SpaceWait>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(poll_space(space, cx))?;
            let next = transmits.get(progress.at.index).map_or(0, Transmit::len);
            ready!(poll_send_budget(cx, next));
            match self.try_send_batch(on, transmits, progress) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            *space = Some(Box::new(SpaceWait::new(on.socket, None)?));
        }
    }

    /// Sends as much of a batch as there is buffer space for. Returns how many transmits were sent
    /// completely, or `WouldBlock` if none was.
    pub(crate) fn try_send_some(
        &self,
        on: Sends<'_>,
        transmits: &[Transmit<'_>],
    ) -> io::Result<usize> {
        let mut progress = Progress::default();
        match self.try_send_batch(on, transmits, &mut progress) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && progress.at.index > 0 => {
                Ok(progress.at.index)
            }
            result => result,
        }
    }

    /// Sends the rest of a batch, as far as there is buffer space.
    fn try_send_batch(
        &self,
        on: Sends<'_>,
        transmits: &[Transmit<'_>],
        progress: &mut Progress,
    ) -> io::Result<usize> {
        on.socket.check_open()?;
        self.flush_first(on)?;
        if progress.at == Cursor::default()
            && let Some(error) = on.receive.take_unclaimed_error(on.socket)
        {
            return Err(error);
        }
        loop {
            match self.send_some(on.socket, transmits, progress) {
                Step::Sent => {}
                Step::Done => return Ok(transmits.len()),
                Step::Full => return Err(io::ErrorKind::WouldBlock.into()),
                Step::Failed(error) if progress.at.index == 0 => return Err(error),
                // The error is dropped, as in sendmmsg(2) (docs/kernel.md, K-GSO-3): the next batch
                // may have nothing to do with it. If it begins with the same transmit, it gets the
                // error again.
                Step::Failed(_) => return Ok(progress.at.index),
            }
        }
    }

    /// Sends the next messages, in one system call.
    fn send_some(
        &self,
        socket: &RegisteredSocket,
        transmits: &[Transmit<'_>],
        progress: &mut Progress,
    ) -> Step {
        if socket.stands_aside() {
            return self.send_some_aside(socket, transmits, progress);
        }
        self.send_next(socket, transmits, progress)
    }

    /// Sends from a socket that has stepped aside. It has no peer, and each datagram needs an
    /// explicit source.
    #[cold]
    fn send_some_aside(
        &self,
        socket: &RegisteredSocket,
        transmits: &[Transmit<'_>],
        progress: &mut Progress,
    ) -> Step {
        // A transmit without a destination would be sent to nobody.
        let (up_to_here, from_here) = transmits.split_at(progress.at.index);
        let from_here = from_here.iter().map_while(|transmit| {
            let source = socket.source_to(transmit.destination()?);
            Some(transmit.with_source(source))
        });
        let sourced: Vec<_> = up_to_here.iter().copied().chain(from_here).collect();
        if sourced.len() == progress.at.index && sourced.len() < transmits.len() {
            return Step::Failed(io::Error::from_raw_os_error(libc::EDESTADDRREQ));
        }
        self.send_next(socket, &sourced, progress)
    }

    fn send_next(
        &self,
        socket: &RegisteredSocket,
        transmits: &[Transmit<'_>],
        progress: &mut Progress,
    ) -> Step {
        match &transmits[progress.at.index..] {
            [] => return Step::Done,
            [last] => {
                if let Some((payload, to)) = last.as_plain() {
                    return self.send_last(socket, payload, to, progress);
                }
            }
            _ => {}
        }
        let mut at = progress.at;
        let classes = self.traffic_classes.get();
        let left = transmits.len().saturating_sub(at.index).min(MESSAGES_PER_CALL);
        let (mut plan, mut slices) = (Vec::with_capacity(left), Vec::with_capacity(left));
        while plan.len() < MESSAGES_PER_CALL {
            let offload = if at < progress.one_by_one { Offload::NONE } else { self.offload() };
            let Some(planned) = next_message(transmits, at, offload, classes, &mut slices) else {
                break;
            };
            at = planned.end;
            plan.push(planned);
        }
        let Some(first) = plan.first() else { return Step::Done };
        match socket.socket.send_many(plan.iter().map(|planned| &planned.message), &slices) {
            Ok(sent) => {
                let datagrams = plan[..sent].iter().map(Planned::datagrams).sum();
                self.note_sent(socket, datagrams, plan[sent - 1].end, progress);
                Step::Sent
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => Step::Sent,
                Some(libc::EAGAIN) => Step::Full,
                // The device cannot cut, or the route does not allow it. Or the datagrams are too
                // long for the route (docs/kernel.md, K-GSO-2). Or there are too many of them.
                Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP)
                    if first.segment_size.is_some() =>
                {
                    progress.one_by_one = first.end;
                    progress.refusal = Some(longest_after(&error, first.segment_size));
                    Step::Sent
                }
                _ => {
                    progress.refusal = None;
                    Step::Failed(error)
                }
            },
        }
    }

    /// Sends the last datagram of a batch, or a batch of one, without a plan: one sendto(2).
    fn send_last(
        &self,
        socket: &RegisteredSocket,
        payload: &[u8],
        to: Option<SocketAddr>,
        progress: &mut Progress,
    ) -> Step {
        match socket.socket.send(payload, to.map(SockAddr::from).as_ref()) {
            Ok(_) => {
                let end = Cursor { index: progress.at.index + 1, offset: 0 };
                self.note_sent(socket, 1, end, progress);
                Step::Sent
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => Step::Sent,
                Some(libc::EAGAIN) => Step::Full,
                _ => {
                    progress.refusal = None;
                    Step::Failed(error)
                }
            },
        }
    }

    /// Datagrams of a batch were sent, up to `end`.
    fn note_sent(
        &self,
        socket: &RegisteredSocket,
        datagrams: usize,
        end: Cursor,
        progress: &mut Progress,
    ) {
        if let Some(longest) = progress.refusal.take() {
            self.note_refusal(longest);
        }
        progress.at = end;
        socket.registration.note_sent(datagrams);
    }

    fn offload(&self) -> Offload {
        Offload { longest: self.longest_segment.get() }
    }

    /// The kernel has refused to cut a message, but not to send its datagrams. Later messages with
    /// such segments are not tried.
    fn note_refusal(&self, longest: usize) {
        let known = self.longest_segment.get();
        self.longest_segment.set(known.min(longest));
    }
}

/// The longest segment that the kernel may still cut after it has refused this one.
fn longest_after(error: &io::Error, segment_size: Option<u16>) -> usize {
    match error.raw_os_error() {
        // Shorter segments may work.
        Some(libc::EINVAL | libc::EMSGSIZE) => {
            segment_size.map_or(0, |size| usize::from(size).saturating_sub(1))
        }
        _ => 0,
    }
}

/// Ready when there is no wait for buffer space left.
fn poll_space(space: &mut Option<Box<SpaceWait>>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    if let Some(waiting) = space {
        ready!(waiting.poll(cx))?;
        *space = None;
    }
    Poll::Ready(Ok(()))
}

/// Coalescing.
impl SendHalf {
    /// Sends `payload` together with what other tasks send.
    fn poll_send_together(
        &self,
        on: Sends<'_>,
        payload: &[u8],
        to: Option<&SockAddr>,
        waiting: &mut Option<Ticket>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(ticket) = *waiting else {
            on.socket.check_open()?;
            ready!(poll_send_budget(cx, payload.len()));
            let to = to.and_then(SockAddr::as_socket);
            let waker = cx.waker().clone();
            *waiting = Some(self.coalescer.borrow_mut().push(payload, to, waker));
            on.socket.call_at_turn_end();
            return Poll::Pending;
        };
        let waker = cx.waker().clone();
        let (answer, _unused) = self.coalescer.borrow_mut().ask(ticket, waker);
        match answer {
            Answer::Wait => Poll::Pending,
            Answer::Result(result) => {
                *waiting = None;
                Poll::Ready(result)
            }
        }
    }

    /// The tasks that were ready have run. Sends what waits in the coalescer, as far as there is
    /// buffer space. No future has to be polled for it, so one that is kept but not polled does not
    /// delay the others.
    pub(super) fn send_together(&self, on: Sends<'_>, wakes: &mut Wakes) -> Again {
        let space = self.space.take();
        if !self.coalescer.borrow().is_waiting() {
            return Again::No;
        }
        if let Some(mut space) = space
            && space.poll(&mut Context::from_waker(Waker::noop())).is_pending()
        {
            self.space.set(Some(space));
            return Again::AfterSleep;
        }
        match self.flush(on, wakes) {
            Flushed::All => Again::No,
            Flushed::NotAll => match SpaceWait::new(on.socket, None) {
                Ok(space) => {
                    self.space.set(Some(space));
                    Again::AfterSleep
                }
                Err(_) => {
                    wakes.wake(self.coalescer.borrow_mut().fail(ended));
                    Again::No
                }
            },
        }
    }

    /// Sends what waits in the coalescer, as far as there is buffer space.
    fn flush(&self, on: Sends<'_>, wakes: &mut Wakes) -> Flushed {
        let mut coalescer = self.coalescer.borrow_mut();
        let (results, flushed) = self.send_each(on, &coalescer.waiting());
        wakes.wake(coalescer.deal(results));
        flushed
    }

    /// Sends until there is no buffer space. Returns the results of the first sends, in order.
    fn send_each(
        &self,
        on: Sends<'_>,
        transmits: &[Transmit<'_>],
    ) -> (Vec<io::Result<usize>>, Flushed) {
        let mut results = Vec::with_capacity(transmits.len());
        let mut progress = Progress::default();
        let unclaimed = || on.receive.take_unclaimed_error(on.socket);
        if let (Some(_), Some(error)) = (transmits.first(), unclaimed()) {
            // The first send gets the error, as if the kernel had returned it.
            results.push(Err(error));
            progress.at = Cursor { index: 1, offset: 0 };
        }
        loop {
            let step = self.send_some(on.socket, transmits, &mut progress);
            let sent = transmits[results.len()..progress.at.index].iter();
            results.extend(sent.map(|transmit| Ok(transmit.len())));
            match step {
                Step::Sent => {}
                Step::Done => return (results, Flushed::All),
                Step::Full => return (results, Flushed::NotAll),
                Step::Failed(error) => {
                    results.push(Err(error));
                    progress.at = Cursor { index: results.len(), offset: 0 };
                }
            }
        }
    }

    /// The future of a send was dropped. If it has not been sent, it is not sent.
    fn abandon_send(&self, ticket: Ticket) {
        let _own = self.coalescer.borrow_mut().leave(ticket);
    }

    /// Sends first what waits in the coalescer, so that nothing overtakes it.
    fn flush_first(&self, on: Sends<'_>) -> io::Result<()> {
        if !self.coalescer.borrow().is_waiting() {
            return Ok(());
        }
        let mut wakes = Wakes::default();
        let flushed = self.flush(on, &mut wakes);
        wakes.run();
        match flushed {
            Flushed::All => Ok(()),
            Flushed::NotAll => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// The socket is no longer open. What waits in the coalescer is not sent.
    pub(super) fn end(&self) {
        drop(self.space.take());
        let wakers = self.coalescer.borrow_mut().fail(ended);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Whether everything in the coalescer was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushed {
    All,
    NotAll,
}
