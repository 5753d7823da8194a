//! [`Held`]: what a socket holds. The receive machine, the inbox, and the counts of every datagram.

use std::io;
use std::iter;
use std::task::Waker;

use ebbtide_runtime::SocketStats;
use ebbtide_runtime::Wakes;
use ebbtide_runtime::buffer::Pool;
use ebbtide_runtime::driver::{
    Armed, Batch, Filled, Layout, READ_BATCH, ReceivedMessage, Scratch, Source, Verdict,
};

use super::endpoint::Family;
use super::inbox::{Arrival, Inbox, Portion, Several};
use super::receive::{Load, Outcome, Place, ReceiveMachine};
use crate::control::segment_size;

pub(super) struct Held {
    pub(super) machine: ReceiveMachine,
    pub(super) inbox: Inbox<Filled, ReceivedMessage>,
    opener: Opener,
    counts: Counts,
}

/// What is counted of every datagram: see [`SocketStats`].
#[derive(Clone, Copy, Default)]
struct Counts {
    /// Counted when they arrive, except that a train in the pool counts as one until it is opened.
    received: u64,
    delivered: u64,
    /// Of those that have been opened.
    truncated: u64,
}

impl Counts {
    /// A message in the pool, which was counted as one datagram, was opened.
    #[inline]
    fn opened(&mut self, message: &ReceivedMessage) {
        self.received += message.count() as u64 - 1;
        self.truncated += u64::from(message.is_truncated());
    }
}

/// What it takes to open a message.
struct Opener {
    pool: Pool,
    layout: Layout,
    family: Family,
    /// True exactly when the kernel may queue trains.
    gro: bool,
}

impl Opener {
    /// The message in a buffer of the pool.
    fn open(&self, filled: Filled) -> ReceivedMessage {
        self.judge(self.open_single(filled))
    }

    /// The same, for one that is known to be no train.
    #[inline(always)]
    fn open_single(&self, filled: Filled) -> ReceivedMessage {
        filled.into_message(self.layout, self.pool.payload_capacity())
    }

    fn peek(&self, filled: &Filled) -> ReceivedMessage {
        self.judge(filled.peek(self.layout, self.pool.payload_capacity()))
    }

    /// Finds out whether a message is a train.
    fn judge(&self, mut message: ReceivedMessage) -> ReceivedMessage {
        if self.family == Family::Internet {
            match segment_size(message.control()) {
                Some(bytes) => message.set_segment_size(bytes),
                None if self.gro && message.lacks_control() => message.doubt(),
                None => {}
            }
        }
        message
    }
}

impl Several for ReceivedMessage {
    fn count(&self) -> usize {
        self.count()
    }

    fn split_off_first(&mut self) -> Option<Self> {
        self.split_off_first()
    }
}

impl Held {
    pub(super) fn new(pool: Pool, layout: Layout, family: Family) -> Self {
        Self {
            machine: ReceiveMachine::new(),
            inbox: Inbox::default(),
            opener: Opener { pool, layout, family, gro: false },
            counts: Counts::default(),
        }
    }

    #[inline]
    pub(super) fn load(&self) -> Load {
        Load { queued: self.inbox.messages(), free: self.opener.pool.free() }
    }

    /// Whether the kernel may queue trains.
    pub(super) fn gro(&self) -> bool {
        self.opener.gro
    }

    /// From now on the kernel may queue trains, or not any more. What has come is judged by what
    /// held when it came.
    pub(super) fn set_gro(&mut self, gro: bool) {
        if gro != self.opener.gro {
            self.open_all();
            self.opener.gro = gro;
        }
    }

    fn open_all(&mut self) {
        self.inbox.open_all(|filled| {
            let message = self.opener.open(filled);
            self.counts.opened(&message);
            message
        });
    }

    /// Buffers of the pool were filled: their messages go into the inbox, or beside it if the socket
    /// holds its share of the pool.
    pub(super) fn arrived(&mut self, batch: Batch<'_>, armed: Armed, wakes: &mut Wakes) -> Verdict {
        let Load { queued, free } = self.load();
        let load = Load { queued: queued + batch.len(), free };
        if self.machine.place(load) == Place::Outside {
            return self.arrived_one_by_one(batch, armed, wakes);
        }
        self.counts.received += batch.len() as u64;
        self.inbox.push_all_filled(batch, wakes);
        self.machine.complete(Outcome::Datagram, armed, load)
    }

    /// There is no room for all of them.
    #[cold]
    fn arrived_one_by_one(
        &mut self,
        mut batch: Batch<'_>,
        armed: Armed,
        wakes: &mut Wakes,
    ) -> Verdict {
        let mut verdict = Verdict::Keep;
        while let Some(next) = batch.next() {
            // The buffers of those that come after it count as free until it is their turn.
            let load = |held: &Self| Load {
                queued: held.inbox.messages(),
                free: held.opener.pool.free_but_for(batch.len()),
            };
            let Load { queued, free } = load(self);
            let with_it = Load { queued: queued + 1, free };
            let load = match self.machine.place(with_it) {
                Place::Pool => {
                    self.counts.received += 1;
                    wakes.wake(self.inbox.push_filled(next));
                    with_it
                }
                Place::Outside => {
                    self.move_outside(next, wakes);
                    load(self)
                }
            };
            let armed = if batch.len() == 0 { armed } else { Armed::Still };
            match self.machine.complete(Outcome::Datagram, armed, load) {
                Verdict::Keep => {}
                other => verdict = other,
            }
        }
        verdict
    }

    fn move_outside(&mut self, filled: Filled, wakes: &mut Wakes) {
        let mut message = self.opener.open(filled);
        message.leave_pool();
        self.push(message, wakes);
    }

    /// Takes up to `limit` messages from `source` without waiting: into the pool, or beside it if
    /// the socket holds its share. Gives how many there were, at least one; it may be fewer although
    /// more are queued.
    ///
    /// # Errors
    ///
    /// Those of recvmsg(2): `WouldBlock` proves that the queue is empty.
    pub(super) fn read(
        &mut self,
        source: &impl Source,
        scratch: &mut Scratch,
        limit: usize,
        wakes: &mut Wakes,
    ) -> io::Result<usize> {
        let Self { machine, inbox, opener: Opener { pool, layout, .. }, counts } = self;
        let load = Load { queued: inbox.messages() + limit.min(READ_BATCH), free: pool.free() };
        if machine.place(load) == Place::Pool {
            let count = scratch.receive_pooled(source, *layout, pool, limit, |filled| {
                counts.received += 1;
                wakes.wake(inbox.push_filled(filled));
            })?;
            if let Some(count) = count {
                return Ok(count);
            }
        }
        let (layout, pool) = (self.opener.layout, self.opener.pool.clone());
        scratch.receive(source, layout, &pool, limit, |message| {
            let message = self.opener.judge(message);
            self.push(message, wakes);
        })
    }

    fn push(&mut self, message: ReceivedMessage, wakes: &mut Wakes) {
        self.counts.received += message.count() as u64;
        self.counts.truncated += u64::from(message.is_truncated());
        wakes.wake(self.inbox.push(message));
    }

    /// An error came, for the receiver.
    pub(super) fn failed(&mut self, error: io::Error, wakes: &mut Wakes) {
        wakes.wake(self.inbox.push_error(error));
    }

    /// Takes what comes next if it is one datagram in the pool, with no control messages and no
    /// machine that waits for it to be taken. What nearly every datagram is, and short for that.
    #[inline(always)]
    pub(super) fn take_single(&mut self) -> Option<ReceivedMessage> {
        let next = self.inbox.next_filled()?;
        if self.machine.waits_for_receivers() || !next.is_plain() {
            return None;
        }
        let filled = self.inbox.take_filled()?;
        let message = self.opener.open_single(filled);
        self.counts.truncated += u64::from(message.is_truncated());
        self.counts.delivered += 1;
        Some(message)
    }

    /// Takes what comes next, wherever it lies. Returns also whom to wake for the rest.
    pub(super) fn take(
        &mut self,
        portion: Portion,
    ) -> Option<(Arrival<ReceivedMessage>, Option<Waker>)> {
        let taken = self.pop(portion)?;
        if let (Arrival::Datagrams(message), _) = &taken {
            self.counts.delivered += message.count() as u64;
            message.claim();
        }
        Some(taken)
    }

    fn pop(&mut self, portion: Portion) -> Option<(Arrival<ReceivedMessage>, Option<Waker>)> {
        self.inbox.pop(portion, |filled| {
            let message = self.opener.open(filled);
            self.counts.opened(&message);
            message
        })
    }

    /// Takes all messages out, undelivered, and forgets errors.
    pub(super) fn take_all(&mut self) -> Vec<ReceivedMessage> {
        let arrivals = iter::from_fn(|| self.pop(Portion::Message));
        arrivals
            .filter_map(|(arrival, _)| match arrival {
                Arrival::Datagrams(received) => Some(received),
                Arrival::Error(_) => None,
            })
            .collect()
    }

    /// Buffers of the pool that wait to be taken.
    pub(super) fn buffers(&self) -> usize {
        self.inbox.filled().len()
            + self.inbox.opened().filter(|message| message.is_pooled()).count()
    }

    /// Datagrams that were handed to receivers.
    pub(super) fn delivered(&self) -> u64 {
        self.counts.delivered
    }

    /// Datagrams that wait to be taken.
    pub(super) fn datagrams(&self) -> usize {
        self.inbox.datagrams(|filled| self.opener.peek(filled).count())
    }

    /// Adds what is counted here.
    pub(super) fn count(&self, stats: &mut SocketStats) {
        let mut counts = self.counts;
        for filled in self.inbox.filled() {
            counts.opened(&self.opener.peek(filled));
        }
        stats.received = counts.received;
        stats.delivered = counts.delivered;
        stats.truncated = counts.truncated;
        stats.paused = self.machine.pauses();
    }
}
