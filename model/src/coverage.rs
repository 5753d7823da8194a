//! [`Coverage`]: which events the programs went through. A run reports them, and fails if it never
//! saw one.

use std::fmt;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// An event that a run must see.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Event { $($(#[$doc])* $name,)+ }

        const NAMES: &[&str] = &[$($text,)+];
    };
}

events! {
    // Datagrams.
    Queued = "datagrams queued",
    Delivered = "datagrams delivered",
    Empty = "empty datagrams delivered",
    Truncated = "truncated datagrams delivered",
    DroppedFull = "dropped: the socket's queue was full",
    Refused = "refused: datagrams that came after the seal",
    LateBeforeSeal = "late datagrams that came before the seal",
    LateAfterSeal = "late datagrams that met the seal",
    BrokenPipe = "sends to a sealed Unix socket",
    SenderBlocked = "sends to a Unix socket with a full queue",
    // The multishot receive.
    Armed = "receives armed",
    EndedEmpty = "receives ended by an empty datagram",
    EndedError = "receives ended by a socket error",
    EndedNoBuffer = "receives ended by ENOBUFS, with data queued",
    ArmedNoBuffer = "receives ended by ENOBUFS when they were armed, without data",
    EndedFull = "receives ended by a full completion queue",
    EndedSpurious = "receives ended by EAGAIN",
    Limit = "receives that reached the limit of 33 in one enter",
    CancelIdle = "cancels of a receive with nothing queued",
    CancelFirst = "cancels that came before the delivery",
    DeliveryFirst = "cancels that came after the delivery",
    CancelLate = "cancels that found nothing",
    CancelDeferred = "cancels whose final completion came with a later enter",
    // The queues.
    Overflowed = "completions put on the overflow list",
    Flushed = "completions flushed from the overflow list",
    Lost = "completions lost",
    LossTold = "enters: EBADR",
    SubmissionFull = "entries that found the submission queue full",
    Interrupted = "enters: EINTR",
    TimedOut = "enters: ETIME",
    Busy = "enters: EBUSY",
    NoMemory = "enters: EAGAIN",
    Partial = "enters that submitted a part",
    Slept = "enters that slept",
    Woken = "sleeps ended by the eventfd",
    WatchEnded = "polls of the eventfd ended by a full completion queue",
    // System calls on sockets.
    SealedByFilter = "UDP seals",
    SealedByShutdown = "Unix seals",
    SealRefused = "seals refused",
    DirectRead = "datagrams read directly",
    DirectError = "socket errors read directly",
    DirectInterrupted = "direct reads interrupted by a signal",
    PeekedQueued = "sockets closed with datagrams queued",
    PeekedError = "sockets closed with an error pending",
    NoRoom = "sends that found no buffer space",
    RoomCame = "waits for buffer space that ended",
    // Programs.
    Waited = "receives that waited",
    FutureDropped = "receive futures dropped while they waited",
    WakeHandedOver = "receive futures dropped with something to take",
    TimeoutElapsed = "receives that a timeout ended",
    BatchTaken = "batches of more than one",
    TrainTaken = "trains taken as a whole",
    TrainBegun = "trains that were held in part while the rest waited",
    TriedEmpty = "try_recv that found nothing",
    ErrorDelivered = "socket errors delivered",
    Held = "datagrams held",
    HeldPastEnd = "datagrams held past the end of the runtime",
    Panicked = "tasks that panicked",
    Aborted = "tasks aborted",
    SocketDropped = "sockets dropped",
    SocketDropDiscarded = "sockets dropped with datagrams in the inbox",
    SocketDrained = "sockets drained alone",
    SocketOpenedLate = "sockets opened while the program ran",
    ProgramDrained = "drains while the program went on",
    SendDropped = "sends dropped while they waited for buffer space",
    SocketsLetGo = "sockets dropped right after their receives were submitted",
    // Ends.
    EndShutdown = "ends by shutdown",
    EndStop = "ends by stop",
    EndDrop = "ends by dropping the runtime",
    EndPanic = "ends by a panic that unwinds through the runtime",
    DeadlineZero = "ends with a deadline of zero",
    DeadlinePassed = "ends whose deadline passed",
    EndSendWaits = "ends that began while a send waited for buffer space",
    Complete = "ends that were complete",
    Discarded = "ends after sockets with datagrams had been dropped",
    Unclaimed = "ends with datagrams that nobody received",
    MustComplete = "ends that had to be complete",
    TasksDropped = "tasks dropped at the end",
    Undelivered = "datagrams counted as undelivered at the end",
    Paused = "receives paused at the socket's share",
    Starved = "receives starved",
    Flood = "programs with an endless flood",
}

/// How often each event happened.
#[derive(Clone)]
pub struct Coverage {
    counts: Vec<u64>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { counts: vec![0; NAMES.len()] }
    }
}

impl Coverage {
    pub(crate) fn note(&mut self, event: Event) {
        self.note_many(event, 1);
    }

    pub(crate) fn note_many(&mut self, event: Event, count: u64) {
        self.counts[event as usize] += count;
    }

    /// Adds the events of another run.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// The events that never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = self.counts.iter().zip(NAMES).filter(|(count, _)| **count == 0);
        missing.map(|(_, name)| *name).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, name) in self.counts.iter().zip(NAMES) {
            writeln!(f, "{count:>14}  {name}")?;
        }
        Ok(())
    }
}
