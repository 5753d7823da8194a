//! Sending: what an [`Endpoint`] does with datagrams that are to leave.
//!
//! A lone send is the plain call, a batch is one sendmmsg, and both wait for buffer space as often
//! as they find none. With coalescing, sends of several tasks wait in the [`Outbox`] until all tasks
//! that were ready have run. Then the socket sends them, by itself and as a batch.
//!
//! ```text
//! send  -> sendmsg                     ── EAGAIN ──> SpaceWait ─┐
//! batch -> next_message .. -> sendmmsg ── EAGAIN ──> SpaceWait ─┤ again
//! send, coalescing -> Outbox ── end of turn ──> as a batch <────┘
//! ```

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use ebbtide_runtime::Again;
use ebbtide_runtime::Wakes;
use ebbtide_runtime::task::{note_sent, poll_send_budget};
use socket2::SockAddr;

use super::endpoint::{Endpoint, ended};
use super::outbox::{Asked, Outbox, Ticket};
use super::space::SpaceWait;
use super::transmit::{Cursor, MESSAGES_PER_CALL, Message, Offload, Transmit, next_message};
use crate::control::TrafficClasses;

/// What a socket keeps for sending.
pub(super) struct Sender {
    /// Longest datagram that the kernel is asked to cut out of a longer message; less after it has
    /// refused. 0: none.
    longest_segment: Cell<usize>,
    /// What the socket sends with, besides what a transmit says.
    pub(super) traffic_classes: Cell<TrafficClasses>,
    /// Whether sends wait for each other.
    pub(super) coalesces: Cell<bool>,
    /// Sends that are to leave together.
    outbox: RefCell<Outbox>,
    /// What they wait for. `None` while there was buffer space.
    space: Cell<Option<SpaceWait>>,
}

impl Default for Sender {
    fn default() -> Self {
        Self {
            longest_segment: Cell::new(usize::from(u16::MAX)),
            traffic_classes: Cell::default(),
            coalesces: Cell::new(false),
            outbox: RefCell::default(),
            space: Cell::default(),
        }
    }
}

/// How far a batch has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// What comes next.
    pub(super) at: Cursor,
    /// Until here the kernel has refused to cut: these datagrams leave one by one.
    one_by_one: Cursor,
    /// The longest segment that the refusal leaves to others. `None` once it is known whether it was
    /// the cutting that was refused: then the datagrams leave one by one.
    refusal: Option<usize>,
}

/// What came of sending some of a batch.
#[derive(Debug)]
pub(super) enum Step {
    /// There may be more.
    Sent,
    /// There is no buffer space now.
    Full,
    /// The datagram at the cursor was not sent.
    Failed(io::Error),
    /// Everything was dealt with.
    Done,
}

impl Endpoint {
    /// Sends now if that is possible without waiting.
    pub(crate) fn try_send(&self, payload: &[u8], to: Option<&SockAddr>) -> io::Result<usize> {
        self.check_open()?;
        self.flush_first()?;
        if let Some(error) = self.take_unclaimed_error() {
            return Err(error);
        }
        if self.stands_aside() {
            return self.try_send_aside(payload, to);
        }
        loop {
            match self.socket.send(payload, to) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(len) => {
                    note_sent(1);
                    return Ok(len);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The same of a socket that stands aside, whose datagrams have to be given their source.
    #[cold]
    fn try_send_aside(&self, payload: &[u8], to: Option<&SockAddr>) -> io::Result<usize> {
        let transmit = match to.and_then(SockAddr::as_socket) {
            Some(to) => Transmit::to(payload, to),
            None => Transmit::new(payload),
        };
        let mut progress = Progress::default();
        loop {
            match self.send_some(&[transmit], &mut progress) {
                Step::Sent => {}
                Step::Done => return Ok(payload.len()),
                Step::Full => return Err(io::ErrorKind::WouldBlock.into()),
                Step::Failed(error) => return Err(error),
            }
        }
    }

    /// Sends by the plain call, which costs less than a lone send through the ring, and waits for
    /// buffer space as often as it finds none.
    pub(super) fn poll_send(
        self: &Rc<Self>,
        payload: &[u8],
        to: Option<&SockAddr>,
        space: &mut Option<Box<SpaceWait>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(poll_space(space, cx))?;
            ready!(poll_send_budget(cx, payload.len()));
            match self.try_send(payload, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            *space = Some(Box::new(SpaceWait::new(self, to)?));
        }
    }

    /// Sends the rest of a batch. Returns how many transmits were sent whole, all of them unless one
    /// failed.
    pub(super) fn poll_send_batch(
        self: &Rc<Self>,
        transmits: &[Transmit<'_>],
        progress: &mut Progress,
        space: &mut Option<Box<SpaceWait>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(poll_space(space, cx))?;
            let next = transmits.get(progress.at.index).map_or(0, Transmit::len);
            ready!(poll_send_budget(cx, next));
            match self.try_send_batch(transmits, progress) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            *space = Some(Box::new(SpaceWait::new(self, None)?));
        }
    }

    /// Sends as much of a batch as there is buffer space for.
    pub(super) fn try_send_batch(
        &self,
        transmits: &[Transmit<'_>],
        progress: &mut Progress,
    ) -> io::Result<usize> {
        self.check_open()?;
        self.flush_first()?;
        if progress.at == Cursor::default()
            && let Some(error) = self.take_unclaimed_error()
        {
            return Err(error);
        }
        loop {
            match self.send_some(transmits, progress) {
                Step::Sent => {}
                Step::Done => return Ok(transmits.len()),
                Step::Full => return Err(io::ErrorKind::WouldBlock.into()),
                Step::Failed(error) if progress.at.index == 0 => return Err(error),
                // As with sendmmsg(2), the error is not kept: whose the next batch is, nobody knows.
                // If it begins with what has failed here, it finds out by itself.
                Step::Failed(_) => return Ok(progress.at.index),
            }
        }
    }

    /// Sends the messages that come next, in one call.
    pub(super) fn send_some(&self, transmits: &[Transmit<'_>], progress: &mut Progress) -> Step {
        if self.stands_aside() {
            return self.send_some_aside(transmits, progress);
        }
        self.send_next(transmits, progress)
    }

    /// The same of a socket that stands aside: it has no peer, and each datagram is given its source.
    #[cold]
    fn send_some_aside(&self, transmits: &[Transmit<'_>], progress: &mut Progress) -> Step {
        // What has no destination would go to nobody.
        let (up_to_here, from_here) = transmits.split_at(progress.at.index);
        let from_here = from_here.iter().map_while(|transmit| {
            let source = self.source_to(transmit.destination()?);
            Some(transmit.with_source(source))
        });
        let sourced: Vec<_> = up_to_here.iter().copied().chain(from_here).collect();
        if sourced.len() == progress.at.index && sourced.len() < transmits.len() {
            return Step::Failed(io::Error::from_raw_os_error(libc::EDESTADDRREQ));
        }
        self.send_next(&sourced, progress)
    }

    fn send_next(&self, transmits: &[Transmit<'_>], progress: &mut Progress) -> Step {
        let mut at = progress.at;
        let classes = self.sender.traffic_classes.get();
        let left = transmits.len().saturating_sub(at.index).min(MESSAGES_PER_CALL);
        let (mut messages, mut slices) = (Vec::with_capacity(left), Vec::with_capacity(left));
        while messages.len() < MESSAGES_PER_CALL {
            let offload = if at < progress.one_by_one { Offload::NONE } else { self.offload() };
            let Some(message) = next_message(transmits, at, offload, classes, &mut slices) else {
                break;
            };
            at = message.end;
            messages.push(message);
        }
        let Some(first) = messages.first() else { return Step::Done };
        match self.socket.send_many(&messages, &slices) {
            Ok(sent) => {
                if let Some(longest) = progress.refusal.take() {
                    self.note_refusal(longest);
                }
                progress.at = messages[sent - 1].end;
                note_sent(messages[..sent].iter().map(Message::datagrams).sum());
                Step::Sent
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => Step::Sent,
                Some(libc::EAGAIN) => Step::Full,
                // The device cannot, or the route is not for it; the datagrams are longer than the
                // route takes; there are too many of them.
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

    fn offload(&self) -> Offload {
        Offload { longest: self.sender.longest_segment.get() }
    }

    /// The kernel has refused to cut a message, but not to send its datagrams: the next ones like it
    /// need not be tried, whosever they are.
    fn note_refusal(&self, longest: usize) {
        let known = self.sender.longest_segment.get();
        self.sender.longest_segment.set(known.min(longest));
    }
}

/// The longest segment that the kernel may still cut if it refuses this one.
fn longest_after(error: &io::Error, segment_size: Option<u16>) -> usize {
    match error.raw_os_error() {
        // What fails for this length works for shorter ones.
        Some(libc::EINVAL | libc::EMSGSIZE) => {
            segment_size.map_or(0, |size| usize::from(size).saturating_sub(1))
        }
        _ => 0,
    }
}

/// Ready when there is nothing to wait for any more.
fn poll_space(space: &mut Option<Box<SpaceWait>>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    if let Some(waiting) = space {
        ready!(waiting.poll(cx))?;
        *space = None;
    }
    Poll::Ready(Ok(()))
}

/// Coalescing.
impl Endpoint {
    /// Sends as [`poll_send`](Self::poll_send), together with what other tasks send.
    pub(super) fn poll_send_together(
        &self,
        payload: &[u8],
        to: Option<&SockAddr>,
        waiting: &mut Option<Ticket>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(ticket) = *waiting else {
            self.check_open()?;
            ready!(poll_send_budget(cx, payload.len()));
            let to = to.and_then(SockAddr::as_socket);
            let waker = cx.waker().clone();
            *waiting = Some(self.sender.outbox.borrow_mut().push(payload, to, waker));
            self.call_at_turn_end();
            return Poll::Pending;
        };
        let waker = cx.waker().clone();
        let (asked, _unused) = self.sender.outbox.borrow_mut().ask(ticket, waker);
        match asked {
            Asked::Wait => Poll::Pending,
            Asked::Result(result) => {
                *waiting = None;
                Poll::Ready(result)
            }
        }
    }

    /// The tasks that were ready have run: what waits to leave together leaves, as far as there is
    /// buffer space. No future has to be polled for it: one that is held would stall the others.
    pub(super) fn send_together(self: &Rc<Self>, wakes: &mut Wakes) -> Again {
        let space = self.sender.space.take();
        if !self.sender.outbox.borrow().is_waiting() {
            return Again::No;
        }
        if let Some(mut space) = space
            && space.poll(&mut Context::from_waker(Waker::noop())).is_pending()
        {
            self.sender.space.set(Some(space));
            return Again::AfterSleep;
        }
        match self.flush(wakes) {
            Flushed::All => Again::No,
            Flushed::NotAll => match SpaceWait::new(self, None) {
                Ok(space) => {
                    self.sender.space.set(Some(space));
                    Again::AfterSleep
                }
                Err(_) => {
                    wakes.wake(self.sender.outbox.borrow_mut().fail(ended));
                    Again::No
                }
            },
        }
    }

    /// Sends what waits to leave together, as far as there is buffer space.
    fn flush(&self, wakes: &mut Wakes) -> Flushed {
        let mut outbox = self.sender.outbox.borrow_mut();
        let (results, flushed) = self.send_each(&outbox.waiting());
        wakes.wake(outbox.deal(results));
        flushed
    }

    /// Sends until there is no buffer space; the results of those that were dealt with, in order.
    fn send_each(&self, transmits: &[Transmit<'_>]) -> (Vec<io::Result<usize>>, Flushed) {
        let mut results = Vec::with_capacity(transmits.len());
        let mut progress = Progress::default();
        if let (Some(_), Some(error)) = (transmits.first(), self.take_unclaimed_error()) {
            // It is that of the first, as if the kernel had told it.
            results.push(Err(error));
            progress.at = Cursor { index: 1, offset: 0 };
        }
        loop {
            let step = self.send_some(transmits, &mut progress);
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

    /// The future of a send was dropped, which then does not take place.
    pub(super) fn abandon_send(&self, ticket: Ticket) {
        let _own = self.sender.outbox.borrow_mut().leave(ticket);
    }

    /// Nothing may overtake what waits to leave together.
    fn flush_first(&self) -> io::Result<()> {
        if !self.sender.outbox.borrow().is_waiting() {
            return Ok(());
        }
        let mut wakes = Wakes::default();
        let flushed = self.flush(&mut wakes);
        wakes.run();
        match flushed {
            Flushed::All => Ok(()),
            Flushed::NotAll => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// The socket is not open any more: what waits to leave together does not leave.
    pub(super) fn end_sends(&self) {
        drop(self.sender.space.take());
        let wakers = self.sender.outbox.borrow_mut().fail(ended);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Whether everything has left the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushed {
    All,
    NotAll,
}
