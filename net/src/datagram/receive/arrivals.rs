//! [`Arrivals`]: what has arrived on a socket. It contains the receive machine, the inbox, and the
//! counts of datagrams.

use std::io;
use std::iter;
use std::task::Waker;

use ebbtide_runtime::buffer::Pool;
use ebbtide_runtime::driver::{Armed, Batch, Layout, READ_BATCH, Scratch, Source, Verdict};
use ebbtide_runtime::{SocketStats, Wakes};

use super::inbox::{Arrival, Inbox, Segmented, Take};
use super::machine::{Occupancy, Outcome, Place, ReceiveMachine};
use super::message::{Copies, ReceivedMessage, Unopened};
use crate::sys::control::segment_size;
use crate::sys::socket::Family;

pub(crate) struct Arrivals {
    pub(super) machine: ReceiveMachine,
    pub(super) inbox: Inbox<Unopened, ReceivedMessage>,
    decoder: Decoder,
    counts: Counts,
}

/// What is counted for every datagram: see [`SocketStats`].
#[derive(Clone, Copy, Default)]
struct Counts {
    /// Counted on arrival. A train in the pool counts as one until it is opened.
    received: u64,
    delivered: u64,
    /// Counted when a message is opened.
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

/// What is needed to open a message.
struct Decoder {
    pool: Pool,
    layout: Layout,
    family: Family,
    /// True exactly when the kernel may queue trains.
    gro: bool,
}

impl Decoder {
    /// Opens the message in a buffer of the pool.
    fn open(&self, unopened: Unopened) -> ReceivedMessage {
        self.judge(self.open_single(unopened))
    }

    /// Opens a message that is known not to be a train.
    #[inline(always)]
    fn open_single(&self, unopened: Unopened) -> ReceivedMessage {
        unopened.into_message(self.layout, self.pool.payload_capacity())
    }

    fn peek(&self, unopened: &Unopened) -> ReceivedMessage {
        self.judge(unopened.peek(self.layout, self.pool.payload_capacity()))
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

impl Segmented for ReceivedMessage {
    fn count(&self) -> usize {
        self.count()
    }

    fn split_off_first(&mut self) -> Option<Self> {
        self.split_off_first()
    }
}

impl Arrivals {
    pub(super) fn new(pool: Pool, layout: Layout, family: Family) -> Self {
        Self {
            machine: ReceiveMachine::new(),
            inbox: Inbox::default(),
            decoder: Decoder { pool, layout, family, gro: false },
            counts: Counts::default(),
        }
    }

    #[inline]
    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy { queued: self.inbox.messages(), free: self.decoder.pool.free() }
    }

    /// Whether the kernel may queue trains.
    pub(super) fn gro(&self) -> bool {
        self.decoder.gro
    }

    /// The kernel may queue trains from now on, or may not. Messages that came before were read
    /// with the old setting.
    pub(super) fn set_gro(&mut self, gro: bool) {
        if gro != self.decoder.gro {
            self.open_all();
            self.decoder.gro = gro;
        }
    }

    fn open_all(&mut self) {
        self.inbox.open_all(|filled| {
            let message = self.decoder.open(filled);
            self.counts.opened(&message);
            message
        });
    }

    /// Buffers of the pool were filled. Their messages go into the inbox. They leave the pool if
    /// the socket holds its share of it.
    pub(super) fn arrived(&mut self, batch: Batch<'_>, armed: Armed, wakes: &mut Wakes) -> Verdict {
        let Occupancy { queued, free } = self.occupancy();
        let occupancy = Occupancy { queued: queued + batch.len(), free };
        if self.machine.place(occupancy) == Place::Outside {
            return self.arrived_one_by_one(batch, armed, wakes);
        }
        self.counts.received += batch.len() as u64;
        self.inbox.push_all_filled(batch.map(Unopened::new), wakes);
        self.machine.complete(Outcome::Datagram, armed, occupancy)
    }

    /// Not all of the batch fits into the socket's share of the pool.
    #[cold]
    fn arrived_one_by_one(
        &mut self,
        mut batch: Batch<'_>,
        armed: Armed,
        wakes: &mut Wakes,
    ) -> Verdict {
        let mut verdict = Verdict::Keep;
        while let Some(next) = batch.next() {
            // The buffers of later messages count as free until it is their turn.
            let occupancy = |arrivals: &Self| Occupancy {
                queued: arrivals.inbox.messages(),
                free: arrivals.decoder.pool.free_but_for(batch.len()),
            };
            let Occupancy { queued, free } = occupancy(self);
            let with_it = Occupancy { queued: queued + 1, free };
            let occupancy = match self.machine.place(with_it) {
                Place::Pool => {
                    self.counts.received += 1;
                    wakes.wake(self.inbox.push_filled(Unopened::new(next)));
                    with_it
                }
                Place::Outside => {
                    self.move_outside(Unopened::new(next), wakes);
                    occupancy(self)
                }
            };
            let armed = if batch.len() == 0 { armed } else { Armed::Still };
            match self.machine.complete(Outcome::Datagram, armed, occupancy) {
                Verdict::Keep => {}
                other => verdict = other,
            }
        }
        verdict
    }

    fn move_outside(&mut self, unopened: Unopened, wakes: &mut Wakes) {
        let mut message = self.decoder.open(unopened);
        message.leave_pool();
        self.push(message, wakes);
    }

    /// Reads up to `limit` messages from `source` without waiting: into the pool, or into separate
    /// memory if the socket holds its share. Returns how many were read, at least one. It may be
    /// fewer even if more are queued.
    ///
    /// # Errors
    ///
    /// Those of recvmsg(2). `WouldBlock` proves that the queue is empty.
    pub(super) fn read(
        &mut self,
        source: &impl Source,
        scratch: &mut Scratch,
        limit: usize,
        wakes: &mut Wakes,
    ) -> io::Result<usize> {
        let Self { machine, inbox, decoder: Decoder { pool, layout, .. }, counts } = self;
        let occupancy =
            Occupancy { queued: inbox.messages() + limit.min(READ_BATCH), free: pool.free() };
        if machine.place(occupancy) == Place::Pool {
            let count = scratch.receive_pooled(source, *layout, pool, limit, |filled| {
                counts.received += 1;
                wakes.wake(inbox.push_filled(Unopened::new(filled)));
            })?;
            if let Some(count) = count {
                return Ok(count);
            }
        }
        let (layout, pool) = (self.decoder.layout, self.decoder.pool.clone());
        let mut copies = Copies::default();
        let mut push = |message| {
            let message = self.decoder.judge(message);
            self.push(message, wakes);
        };
        let count = scratch.receive(source, layout, &pool, limit, |memory, len| {
            copies.push(memory, len, layout, &pool, &mut push);
        })?;
        copies.hand_over(&pool, push);
        Ok(count)
    }

    fn push(&mut self, message: ReceivedMessage, wakes: &mut Wakes) {
        self.counts.received += message.count() as u64;
        self.counts.truncated += u64::from(message.is_truncated());
        wakes.wake(self.inbox.push(message));
    }

    /// Adds an error, for a receiver.
    pub(super) fn failed(&mut self, error: io::Error, wakes: &mut Wakes) {
        wakes.wake(self.inbox.push_error(error));
    }

    /// Takes the next arrival if it is one datagram in the pool, without control messages. Returns
    /// `None` if the machine waits for receivers to take something. This is the fast path of nearly
    /// every datagram.
    #[inline(always)]
    pub(super) fn take_single(&mut self) -> Option<ReceivedMessage> {
        let next = self.inbox.next_filled()?;
        if self.machine.waits_for_receivers() || !next.is_plain() {
            return None;
        }
        let filled = self.inbox.take_filled()?;
        let message = self.decoder.open_single(filled);
        self.counts.truncated += u64::from(message.is_truncated());
        self.counts.delivered += 1;
        Some(message)
    }

    /// Takes the next arrival, wherever it is stored. Also returns the waker of the next receiver,
    /// for the rest.
    pub(super) fn take(&mut self, take: Take) -> Option<(Arrival<ReceivedMessage>, Option<Waker>)> {
        let taken = self.pop(take)?;
        if let (Arrival::Datagrams(message), _) = &taken {
            self.counts.delivered += message.count() as u64;
            message.claim();
        }
        Some(taken)
    }

    fn pop(&mut self, take: Take) -> Option<(Arrival<ReceivedMessage>, Option<Waker>)> {
        self.inbox.pop(take, |filled| {
            let message = self.decoder.open(filled);
            self.counts.opened(&message);
            message
        })
    }

    /// Takes all messages out, undelivered, and drops errors.
    pub(super) fn take_all(&mut self) -> Vec<ReceivedMessage> {
        let arrivals = iter::from_fn(|| self.pop(Take::Train));
        arrivals
            .filter_map(|(arrival, _)| match arrival {
                Arrival::Datagrams(received) => Some(received),
                Arrival::Error(_) => None,
            })
            .collect()
    }

    /// Buffers of the pool that wait to be taken.
    pub(crate) fn buffers(&self) -> usize {
        self.inbox.filled().len()
            + self.inbox.opened().filter(|message| message.is_pooled()).count()
    }

    /// Datagrams that were handed to receivers.
    pub(crate) fn delivered(&self) -> u64 {
        self.counts.delivered
    }

    /// Datagrams that wait to be taken.
    pub(super) fn datagrams(&self) -> usize {
        self.inbox.datagrams(|filled| self.decoder.peek(filled).count())
    }

    /// Adds the counts of this type.
    pub(super) fn count(&self, stats: &mut SocketStats) {
        let mut counts = self.counts;
        for filled in self.inbox.filled() {
            counts.opened(&self.decoder.peek(filled));
        }
        stats.received = counts.received;
        stats.delivered = counts.delivered;
        stats.truncated = counts.truncated;
        stats.paused = self.machine.pauses();
    }
}
