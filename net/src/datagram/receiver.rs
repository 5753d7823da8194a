//! How an [`Endpoint`] hands out what has arrived: the short way of nearly every datagram, the long
//! way of all others, and the reading on after the seal.

use std::io;
use std::task::{Context, Poll, ready};

use ebbtide_runtime::Wakes;
use ebbtide_runtime::driver::ReceivedMessage;
use ebbtide_runtime::limits::DRAIN_READ_BATCH;
use ebbtide_runtime::task::{Told, poll_receive_budget};
use ebbtide_runtime::{Drainable, Pass, ReadProgress};

use super::audience::Member;
use super::endpoint::Endpoint;
use super::inbox::{Arrival, Portion};
use super::waiters::WaiterKey;

impl Endpoint {
    /// Takes the next arrival, as what `wrap` makes of it. `Ready(Ok(None))`: sealed and drained.
    ///
    /// Inlined into the future, so that a datagram that has come alone, with nothing beside it, is
    /// made where the future returns it.
    #[inline(always)]
    pub(super) fn poll_receive<T>(
        &self,
        portion: Portion,
        waiter: &mut Option<WaiterKey>,
        cx: &Context<'_>,
        wrap: impl FnOnce(ReceivedMessage) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        self.registration.check_process()?;
        let member = Member::polled_with(cx.waker());
        if self.held.borrow().inbox.is_empty() && self.finds_nothing() {
            self.told(member, Told::Nothing);
            return self.wait(waiter, cx);
        }
        // Only what is handed over is charged for: a `select` over many sockets polls them all.
        ready!(poll_receive_budget(cx));
        if let Some(key) = waiter.take() {
            self.leave_queue(key);
        }
        if let Some(datagram) = self.take_single() {
            self.told(member, Told::Datagram);
            return Poll::Ready(Ok(Some(wrap(datagram))));
        }
        self.take_or_end(portion, member, wrap)
    }

    /// What `member` was told.
    #[inline]
    fn told(&self, member: Member, told: Told) {
        let handed_out = self.registration.told(told);
        match told {
            Told::Nothing => self.audience.waits(member, |task| self.registration.is_alive(task)),
            Told::Datagram => {
                self.audience.handed(member, handed_out, |task| self.registration.is_alive(task));
            }
            Told::End => self.audience.told_end(member),
        }
    }

    /// The inbox is empty: whether there is neither more to take, nor the end to tell.
    #[inline(never)]
    fn finds_nothing(&self) -> bool {
        self.start_if_unasked();
        self.read_on();
        self.held.borrow().inbox.is_empty() && !self.is_drained()
    }

    /// If the socket is sealed and the inbox is empty: reads on until it is not, or to the end.
    #[inline]
    fn read_on(&self) {
        if !self.asks_to_be_read() {
            return;
        }
        let mut wakes = Wakes::default();
        self.read_ahead(&mut wakes);
        wakes.run();
    }

    pub(super) fn read_ahead(&self, wakes: &mut Wakes) {
        while self.asks_to_be_read()
            && self.read(DRAIN_READ_BATCH, Pass::Last, wakes) == ReadProgress::More
        {}
    }

    /// Whether the socket is sealed, may have more in the kernel, and the inbox is empty.
    fn asks_to_be_read(&self) -> bool {
        let held = self.held.borrow();
        held.machine.is_reading() && held.inbox.is_empty()
    }

    /// A receiver that waited is served.
    fn leave_queue(&self, key: WaiterKey) {
        let _own = self.held.borrow_mut().inbox.served(key);
    }

    /// What there is to take, or `None` for the end.
    #[inline(never)]
    fn take_or_end<T>(
        &self,
        portion: Portion,
        member: Member,
        wrap: impl FnOnce(ReceivedMessage) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        let taken = self.take_for(portion, member);
        if taken.is_none() {
            self.told(member, Told::End);
        }
        Poll::Ready(taken.transpose().map(|taken| taken.map(wrap)))
    }

    fn wait<T>(&self, waiter: &mut Option<WaiterKey>, cx: &Context<'_>) -> Poll<T> {
        // Cloned before and dropped after the borrow: wakers are foreign code.
        let waker = cx.waker().clone();
        let (key, _replaced) = self.held.borrow_mut().inbox.wait(*waiter, waker);
        *waiter = Some(key);
        Poll::Pending
    }

    /// The future of a receive was dropped.
    #[cold]
    pub(crate) fn abandon_receive(&self, waiter: WaiterKey) {
        let (next, own) = self.held.borrow_mut().inbox.dropped(waiter);
        if let Some(own) = &own {
            self.audience.stops_waiting(own);
        }
        if let Some(next) = next {
            next.wake();
        }
    }

    /// Takes what is queued now, in the inbox or in the kernel; `WouldBlock` if nothing is.
    pub(super) fn try_receive(&self, portion: Portion) -> io::Result<Option<ReceivedMessage>> {
        self.registration.check_process()?;
        if self.held.borrow().inbox.messages() == 0 && self.is_open() {
            self.start_if_unasked();
            self.registration.collect_now();
            self.read_on();
        }
        let member = Member::task();
        match self.take_for(portion, member) {
            Some(taken) => taken.map(Some),
            None if self.is_drained() => {
                self.told(member, Told::End);
                Ok(None)
            }
            None => {
                self.registration.told(Told::Nothing);
                self.audience.looked(member, |task| self.registration.is_alive(task));
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    /// Takes the next arrival if it is in the inbox and no error, for whoever was handed one just now.
    #[inline]
    pub(super) fn take_datagram(&self) -> Option<ReceivedMessage> {
        let next = self.held.borrow().inbox.is_next_datagram();
        if !next {
            return None;
        }
        self.take_single().or_else(|| self.take(Portion::Datagram)?.ok())
    }

    /// Takes the next arrival if it is the plainest: see [`Held::take_single`].
    #[inline(always)]
    fn take_single(&self) -> Option<ReceivedMessage> {
        let taken = self.held.borrow_mut().take_single()?;
        if self.is_sealed() {
            self.taken_after_the_seal();
        }
        Some(taken)
    }

    /// A receiver has been handed a datagram, perhaps the last that was read.
    fn taken_after_the_seal(&self) {
        if self.held.borrow().inbox.has_waiters() {
            // They will not ask again by themselves.
            self.read_on();
        }
    }

    /// The same for `member`. An error is something to come back from, too.
    fn take_for(&self, portion: Portion, member: Member) -> Option<io::Result<ReceivedMessage>> {
        let taken = self.take(portion)?;
        self.told(member, Told::Datagram);
        Some(taken)
    }

    /// Takes the next arrival from the inbox, and tells the machine.
    fn take(&self, portion: Portion) -> Option<io::Result<ReceivedMessage>> {
        let (arrival, next) = self.held.borrow_mut().take(portion)?;
        if let Some(next) = next {
            next.wake();
        }
        if self.held.borrow().machine.waits_for_receivers() {
            self.tell_taken();
        }
        Some(match arrival {
            Arrival::Datagrams(taken) => {
                if self.is_sealed() {
                    self.taken_after_the_seal();
                }
                Ok(taken)
            }
            Arrival::Error(error) => {
                self.stats.borrow_mut().errors += 1;
                Err(error)
            }
        })
    }

    /// Takes an error that came of a send and waits for a receiver, although nobody receives. The
    /// kernel reports it to the next call, a send as well; but here the receive is always first.
    #[inline]
    pub(super) fn take_unclaimed_error(&self) -> Option<io::Error> {
        if self.held.borrow().inbox.errors() == 0 {
            return None;
        }
        self.take_error_of_nobody()
    }

    #[cold]
    fn take_error_of_nobody(&self) -> Option<io::Error> {
        if !self.audience.is_nobody(|task| self.registration.is_alive(task)) {
            return None;
        }
        let error = self.held.borrow_mut().inbox.take_error(is_of_the_peer)?;
        self.stats.borrow_mut().errors += 1;
        if self.held.borrow().machine.waits_for_receivers() {
            self.tell_taken();
        }
        Some(error)
    }

    /// Receivers have taken something, for which the machine waits.
    fn tell_taken(&self) {
        if !self.is_open() {
            return;
        }
        let verdict = {
            let mut held = self.held.borrow_mut();
            let (load, errors) = (held.load(), held.inbox.errors());
            held.machine.taken(load, errors)
        };
        self.carry_out(verdict);
    }
}

/// Whether an error came of what was sent: as ICMP (`icmp_err_convert`, `icmpv6_err_convert`), or of
/// the end of a Unix peer. Other errors are those of the receive itself, and no sender's.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::EHOSTUNREACH | libc::ENETUNREACH)
            | Some(libc::EHOSTDOWN | libc::ENETDOWN | libc::ENONET | libc::ENOPROTOOPT)
            | Some(libc::EACCES | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::EPROTO)
    )
}
