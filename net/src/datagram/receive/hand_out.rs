//! How a [`ReceiveHalf`] hands out datagrams: the fast path for nearly all of them, the slow path
//! for the others, and reading after the seal.

use std::io;
use std::task::{Context, Poll, ready};

use ebbtide_runtime::Wakes;
use ebbtide_runtime::task::{Answer, poll_receive_budget};

use super::audience::Member;
use super::inbox::{Arrival, Take};
use super::waiters::WaiterKey;
use super::{ReceiveHalf, ReceivedMessage};
use crate::datagram::registered::RegisteredSocket;

/// What a look at the kernel has found when the inbox was empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Something to take, or the end.
    Something,
    Nothing,
}

impl ReceiveHalf {
    /// Takes the next arrival and converts it with `wrap`. `Ready(Ok(None))` means that the socket
    /// is drained.
    ///
    /// It is inlined into the future. A datagram that comes alone, with no error and no train, is
    /// thereby constructed in the future's return place.
    #[inline(always)]
    pub(super) fn poll<T>(
        &self,
        socket: &RegisteredSocket,
        take: Take,
        waiter: &mut Option<WaiterKey>,
        cx: &Context<'_>,
        wrap: impl FnOnce(ReceivedMessage) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        socket.registration.check_process()?;
        let member = Member::polled_with(cx.waker());
        if self.arrivals.borrow().inbox.is_empty() && self.look(socket) == Look::Nothing {
            self.note_answer(socket, member, Answer::Nothing);
            return self.wait(waiter, cx);
        }
        // Only a datagram uses up budget: a `select` over many sockets polls them all.
        ready!(poll_receive_budget(cx));
        if let Some(key) = waiter.take() {
            self.leave_queue(key);
        }
        if let Some(datagram) = self.take_single(socket) {
            self.note_answer(socket, member, Answer::Datagram);
            return Poll::Ready(Ok(Some(wrap(datagram))));
        }
        self.take_or_end(socket, take, member, wrap)
    }

    /// Notes what `member` was told.
    #[inline]
    fn note_answer(&self, socket: &RegisteredSocket, member: Member, answer: Answer) {
        let registration = &socket.registration;
        let handed_out = registration.note_answer(answer);
        match answer {
            Answer::Nothing => self.audience.waits(member, |task| registration.is_alive(task)),
            Answer::Datagram => {
                self.audience.handed(member, handed_out, |task| registration.is_alive(task));
            }
            Answer::End => self.audience.told_end(member),
        }
    }

    /// The inbox is empty. Starts to receive if nobody has asked before, and reads if the socket is
    /// sealed.
    #[inline(never)]
    fn look(&self, socket: &RegisteredSocket) -> Look {
        self.start_if_unasked(socket);
        self.read_on(socket);
        if self.arrivals.borrow().inbox.is_empty() && !self.is_drained(socket) {
            return Look::Nothing;
        }
        Look::Something
    }

    /// If the socket is sealed and the inbox is empty, reads until something is in the inbox or the
    /// queue is at its end.
    #[inline]
    fn read_on(&self, socket: &RegisteredSocket) {
        if !self.needs_reading() {
            return;
        }
        let mut wakes = Wakes::default();
        self.read_ahead(socket, &mut wakes);
        wakes.run();
    }

    /// Removes a waiter that is served.
    fn leave_queue(&self, key: WaiterKey) {
        let _own = self.arrivals.borrow_mut().inbox.served(key);
    }

    /// Takes the next arrival, or returns `None` at the end.
    #[inline(never)]
    fn take_or_end<T>(
        &self,
        socket: &RegisteredSocket,
        take: Take,
        member: Member,
        wrap: impl FnOnce(ReceivedMessage) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        let taken = self.take_for(socket, take, member);
        if taken.is_none() {
            self.note_answer(socket, member, Answer::End);
        }
        Poll::Ready(taken.transpose().map(|taken| taken.map(wrap)))
    }

    fn wait<T>(&self, waiter: &mut Option<WaiterKey>, cx: &Context<'_>) -> Poll<T> {
        // Cloned before the borrow and dropped after it: wakers are third-party code.
        let waker = cx.waker().clone();
        let (key, _replaced) = self.arrivals.borrow_mut().inbox.wait(*waiter, waker);
        *waiter = Some(key);
        Poll::Pending
    }

    /// The future of a receive was dropped.
    #[cold]
    pub(super) fn abandon(&self, waiter: WaiterKey) {
        let (next, own) = self.arrivals.borrow_mut().inbox.dropped(waiter);
        if let Some(own) = &own {
            self.audience.stops_waiting(own);
        }
        if let Some(next) = next {
            next.wake();
        }
    }

    /// Takes what is queued now, in the inbox or in the kernel. Fails with `WouldBlock` if nothing
    /// is.
    pub(crate) fn try_receive(
        &self,
        socket: &RegisteredSocket,
        take: Take,
    ) -> io::Result<Option<ReceivedMessage>> {
        socket.registration.check_process()?;
        if self.arrivals.borrow().inbox.messages() == 0 && socket.is_open() {
            self.start_if_unasked(socket);
            socket.registration.collect_now();
            self.read_on(socket);
        }
        let member = Member::task();
        match self.take_for(socket, take, member) {
            Some(taken) => taken.map(Some),
            None if self.is_drained(socket) => {
                self.note_answer(socket, member, Answer::End);
                Ok(None)
            }
            None => {
                let registration = &socket.registration;
                let _ = registration.note_answer(Answer::Nothing);
                self.audience.looked(member, |task| registration.is_alive(task));
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    /// Takes the next arrival if it is in the inbox and not an error. It goes to the receiver that
    /// was just handed another one.
    #[inline]
    pub(super) fn take_datagram(&self, socket: &RegisteredSocket) -> Option<ReceivedMessage> {
        let next = self.arrivals.borrow().inbox.is_next_datagram();
        if !next {
            return None;
        }
        self.take_single(socket).or_else(|| self.take(socket, Take::One)?.ok())
    }

    /// Takes the next arrival if it is on the fast path: see
    /// [`Arrivals::take_single`](super::Arrivals::take_single).
    #[inline(always)]
    fn take_single(&self, socket: &RegisteredSocket) -> Option<ReceivedMessage> {
        let taken = self.arrivals.borrow_mut().take_single()?;
        if self.is_sealed() {
            self.taken_after_the_seal(socket);
        }
        Some(taken)
    }

    /// A receiver was handed a datagram, perhaps the last one that was read.
    fn taken_after_the_seal(&self, socket: &RegisteredSocket) {
        if self.arrivals.borrow().inbox.has_waiters() {
            // The receivers that wait will not ask again by themselves.
            self.read_on(socket);
        }
    }

    /// Takes the next arrival for `member`. A receiver that was handed an error counts as handling it,
    /// too.
    fn take_for(
        &self,
        socket: &RegisteredSocket,
        take: Take,
        member: Member,
    ) -> Option<io::Result<ReceivedMessage>> {
        let taken = self.take(socket, take)?;
        self.note_answer(socket, member, Answer::Datagram);
        Some(taken)
    }

    /// Takes the next arrival from the inbox, and informs the machine.
    fn take(&self, socket: &RegisteredSocket, take: Take) -> Option<io::Result<ReceivedMessage>> {
        let (arrival, next) = self.arrivals.borrow_mut().take(take)?;
        if let Some(next) = next {
            next.wake();
        }
        if self.arrivals.borrow().machine.waits_for_receivers() {
            self.tell_taken(socket);
        }
        Some(match arrival {
            Arrival::Datagrams(taken) => {
                if self.is_sealed() {
                    self.taken_after_the_seal(socket);
                }
                Ok(taken)
            }
            Arrival::Error(error) => {
                self.stats.borrow_mut().errors += 1;
                Err(error)
            }
        })
    }

    /// Takes an error that was caused by a send and waits for a receiver, if nobody receives. The
    /// kernel reports such an error to the next call, be it a send or a receive. Here the receive
    /// always gets it first.
    #[inline]
    pub(crate) fn take_unclaimed_error(&self, socket: &RegisteredSocket) -> Option<io::Error> {
        if self.arrivals.borrow().inbox.errors() == 0 {
            return None;
        }
        self.take_error_of_nobody(socket)
    }

    #[cold]
    fn take_error_of_nobody(&self, socket: &RegisteredSocket) -> Option<io::Error> {
        if !self.audience.is_nobody(|task| socket.registration.is_alive(task)) {
            return None;
        }
        let error = self.arrivals.borrow_mut().inbox.take_error(is_of_the_peer)?;
        self.stats.borrow_mut().errors += 1;
        if self.arrivals.borrow().machine.waits_for_receivers() {
            self.tell_taken(socket);
        }
        Some(error)
    }

    /// Informs the machine that receivers have taken something.
    fn tell_taken(&self, socket: &RegisteredSocket) {
        if !socket.is_open() {
            return;
        }
        let verdict = {
            let mut arrivals = self.arrivals.borrow_mut();
            let (occupancy, errors) = (arrivals.occupancy(), arrivals.inbox.errors());
            arrivals.machine.taken(occupancy, errors)
        };
        self.carry_out(socket, verdict);
    }
}

/// Whether a send caused the error: an ICMP message (`icmp_err_convert`, `icmpv6_err_convert`), or
/// the end of a Unix peer. Other errors are those of the receive itself.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::EHOSTUNREACH | libc::ENETUNREACH)
            | Some(libc::EHOSTDOWN | libc::ENETDOWN | libc::ENONET | libc::ENOPROTOOPT)
            | Some(libc::EACCES | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::EPROTO)
    )
}
