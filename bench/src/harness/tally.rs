//! [`Tally`]: checks and counts the datagrams of a contestant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fail;
use super::gate::Gate;
use super::shared::Shared;

/// Whether the contestant goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Flow {
    More,
    /// Everything has been received.
    Done,
}

/// Counts the datagrams of one socket. Each has its number in its first eight bytes, so every run
/// proves that all were received, once and in order. If one was not, the run fails.
pub(crate) struct Tally {
    /// The number that the next datagram must have, and how many there have been.
    next: u64,
    /// The count at which the stage is over.
    mark: u64,
    size: usize,
    /// The number of datagrams after which the count is published to the generator, less one.
    publish_mask: u64,
    /// Ends of the stages that follow, the last one first.
    marks: Vec<u64>,
    published: &'static AtomicU64,
    /// `None` for a tally that only counts.
    gate: Option<Arc<Gate>>,
}

impl Tally {
    /// `marks`: the counts at which stages end, ascending.
    pub(crate) fn new(
        size: usize,
        marks: &[u64],
        window: u64,
        published: &'static AtomicU64,
        gate: Option<Arc<Gate>>,
    ) -> Self {
        let mut marks: Vec<u64> = marks.iter().rev().copied().collect();
        let mark = marks.pop().unwrap_or_else(|| fail("a measurement without a stage"));
        // Often enough that the generator never stops because it has not seen the progress.
        let publish_mask = (window / 4).clamp(1, 64).next_power_of_two() - 1;
        Self { next: 0, mark, size, publish_mask, marks, published, gate }
    }

    /// Takes a datagram: looks at its length and its number. May block the thread between stages.
    #[inline]
    pub(crate) fn take(&mut self, payload: &[u8]) -> Flow {
        if payload.len() != self.size || number_of(payload) != self.next {
            self.refuse(payload);
        }
        self.next += 1;
        if self.next & self.publish_mask == 0 {
            self.published.store(self.next, Ordering::Release);
        }
        if self.next == self.mark { self.end_stage() } else { Flow::More }
    }

    /// Takes a train of datagrams of `stride` bytes each, the last of which may be shorter.
    #[inline]
    pub(crate) fn take_train(&mut self, train: &[u8], stride: usize) -> Flow {
        for payload in train.chunks(stride.max(1)) {
            if self.take(payload) == Flow::Done {
                return Flow::Done;
            }
        }
        Flow::More
    }

    #[cold]
    fn end_stage(&mut self) -> Flow {
        self.published.store(self.next, Ordering::Release);
        let next = self.marks.pop();
        if let Some(gate) = &self.gate {
            gate.arrive();
        }
        match next {
            Some(mark) => {
                self.mark = mark;
                Flow::More
            }
            None => Flow::Done,
        }
    }

    #[cold]
    fn refuse(&self, payload: &[u8]) -> ! {
        refuse(self.next, self.size, payload)
    }
}

fn refuse(next: u64, size: usize, payload: &[u8]) -> ! {
    fail(&format!(
        "datagram {next} of {size} bytes was expected, and {} of {} bytes came",
        number_of(payload),
        payload.len()
    ))
}

/// Counts the datagrams of a program that ends while they come.
pub(crate) struct ExitTally {
    next: u64,
    size: usize,
    /// The count at which `take` returns `Done`, once.
    until: u64,
    shared: &'static Shared,
}

impl ExitTally {
    pub(crate) fn new(size: usize, until: u64, shared: &'static Shared) -> Self {
        Self { next: 0, size, until, shared }
    }

    /// Takes a datagram. Each one counts, whether it comes before or after the exit was decided.
    pub(crate) fn take(&mut self, payload: &[u8]) -> Flow {
        if payload.len() != self.size || number_of(payload) != self.next {
            refuse(self.next, self.size, payload);
        }
        self.next += 1;
        self.shared.received[0].0.store(self.next, Ordering::Release);
        if self.next != self.until {
            return Flow::More;
        }
        self.shared.mark_exit();
        Flow::Done
    }
}

/// The number in the first eight bytes.
#[inline]
fn number_of(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

/// Counts the echoes of a server. The client checks their contents, because it knows what it sent.
pub(crate) struct EchoTally {
    count: u64,
    warm: u64,
    total: u64,
    size: usize,
    gate: Arc<Gate>,
}

impl EchoTally {
    pub(crate) fn new(size: usize, warm: u64, total: u64, gate: Arc<Gate>) -> Self {
        Self { count: 0, warm, total, size, gate }
    }

    /// Takes a request, before it is answered. After [`Flow::Done`] the contestant answers it,
    /// makes sure that all answers are with the kernel, and calls [`finish`](Self::finish).
    #[inline]
    pub(crate) fn take(&mut self, payload: &[u8]) -> Flow {
        if payload.len() != self.size {
            fail(&format!("a request of {} bytes, not {}", payload.len(), self.size));
        }
        self.count += 1;
        if self.count == self.warm {
            self.gate.arrive();
        }
        if self.count == self.total { Flow::Done } else { Flow::More }
    }

    /// The last answer has been handed to the kernel.
    pub(crate) fn finish(self) {
        if self.count != self.total {
            fail(&format!("{} of {} requests were answered", self.count, self.total));
        }
        self.gate.arrive();
    }
}
