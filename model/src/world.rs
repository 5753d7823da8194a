//! [`World`]: the kernel in memory, the senders outside of the program, and the clock. Everything
//! that moves is moved here. Before each call of the program's side, others may move.

use std::cell::RefCell;
use std::fmt::Arguments;
use std::fs::File;
use std::io::Read;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use ebbtide_runtime::buffer::Pool;
use ebbtide_runtime::model::set_time;

use crate::buffers::Buffers;
use crate::choices::Choices;
use crate::coverage::{Coverage, Event};
use crate::kernel::Queues;
use crate::socket::{Datagram, Kind, Socket};
use crate::version::Version;

/// A world that the program and its kernel share.
pub(crate) type Shared = Rc<RefCell<World>>;

/// How many calls a program may make before its end, and from there on. Some hundred are usual. A
/// socket that is flooded until its stage begins, a quarter of a second later, leads to about a
/// hundred thousand.
const MOST_CALLS: u64 = 400_000;
const MOST_CALLS_AT_END: u64 = 400_000;

/// Bytes for payloads. Each differs from its neighbours. They are copied from here, because an
/// interpreter is too slow to compute them one by one.
const FILLING: [u8; 1024] = {
    let mut bytes = [0; 1024];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = at as u8;
        at += 1;
    }
    bytes
};

/// The time that a call takes.
const CALL_TIME: Duration = Duration::from_micros(2);

pub(crate) struct World {
    pub(crate) version: Version,
    pub(crate) choices: Choices,
    pub(crate) coverage: Coverage,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) queues: Queues,
    pub(crate) buffers: Buffers,
    pub(crate) senders: Vec<Sender>,
    /// How many completions may still be lost.
    pub(crate) losses_left: usize,
    /// How many errors may still come to UDP sockets.
    pub(crate) errors_left: usize,
    /// The largest number of moves of others between two calls.
    pub(crate) bustle: usize,
    /// How many enters of a hundred submit only a part, or nothing.
    pub(crate) refusals: usize,
    /// How many datagrams the program holds.
    pub(crate) held: usize,
    /// How many sends of the program wait for buffer space.
    pub(crate) sends_waiting: usize,
    /// How many of these the end of the runtime has dropped.
    pub(crate) sends_cut: usize,
    /// Whether a UDP seal may be refused.
    pub(crate) may_refuse_seals: bool,
    /// The largest payload that fits into a buffer.
    pub(crate) buffer_size: usize,
    /// The pool of the program's side, for comparison.
    pub(crate) pool: Option<Pool>,
    /// The eventfd that other threads of the program write to.
    pub(crate) eventfd: Option<File>,
    /// Whether the eventfd was ever written to. From then on it is readable.
    pub(crate) was_written: bool,
    pub(crate) stage: Stage,
    /// The first violation of an invariant.
    violation: Option<String>,
    tells: bool,
    origin: Instant,
    elapsed: Duration,
    calls: u64,
    moves: u64,
    datagrams: u64,
    /// The main future of the program, which waits for a number of moves.
    root: Option<(u64, Waker)>,
}

/// The stage of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Running,
    Ending,
    Ended,
}

/// A sender outside of the program.
pub(crate) struct Sender {
    pub(crate) id: u16,
    pub(crate) target: usize,
    /// How many datagrams it will still send. `None` means without end.
    pub(crate) left: Option<usize>,
    /// The largest number of datagrams that it sends in one move.
    pub(crate) burst: usize,
    /// How many of a hundred of its datagrams are empty.
    pub(crate) empties: usize,
    /// How many of a hundred of its datagrams to UDP sockets are trains.
    pub(crate) trains: usize,
    /// True once it was told that nobody receives.
    pub(crate) has_given_up: bool,
}

/// The result of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Yes,
    Failed(i32),
}

impl World {
    pub(crate) fn new(choices: Choices, version: Version, tells: bool) -> Self {
        let origin = Instant::now();
        set_time(Some(origin));
        Self {
            version,
            choices,
            coverage: Coverage::default(),
            sockets: Vec::new(),
            queues: Queues::new(8, 8),
            buffers: Buffers::new(),
            senders: Vec::new(),
            losses_left: 0,
            errors_left: 0,
            bustle: 0,
            refusals: 0,
            held: 0,
            sends_waiting: 0,
            sends_cut: 0,
            may_refuse_seals: false,
            buffer_size: usize::MAX,
            pool: None,
            eventfd: None,
            was_written: false,
            stage: Stage::Running,
            violation: None,
            tells,
            origin,
            elapsed: Duration::ZERO,
            calls: 0,
            moves: 0,
            datagrams: 0,
            root: None,
        }
    }

    /// Prints a step, if steps are traced.
    pub(crate) fn tell(&self, what: Arguments<'_>) {
        if self.tells {
            println!("{:>10.3?}  {what}", self.elapsed);
        }
    }

    pub(crate) fn note(&mut self, event: Event) {
        self.coverage.note(event);
    }

    /// Records that an invariant does not hold. Only the first violation counts. From then on the
    /// world only ends.
    pub(crate) fn violate(&mut self, what: String) {
        self.tell(format_args!("VIOLATION: {what}"));
        if self.violation.is_none() {
            self.violation = Some(what);
        }
        self.wake_root();
    }

    pub(crate) fn violation(&self) -> Option<&String> {
        self.violation.as_ref()
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.violation.is_some()
    }

    pub(crate) fn advance(&mut self, stage: Stage) {
        self.tell(format_args!("-- {stage:?}"));
        self.stage = stage;
        self.calls = 0;
        if stage == Stage::Ending {
            for socket in &mut self.sockets {
                socket.was_open_at_end = socket.is_open();
            }
            if self.sends_waiting > 0 {
                self.note(Event::EndSendWaits);
            }
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.elapsed
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.elapsed += time;
        set_time(Some(self.origin + self.elapsed));
    }

    /// The program's side makes a call. Others may move first.
    pub(crate) fn call(&mut self) {
        self.calls += 1;
        let most = match self.stage {
            Stage::Running => MOST_CALLS,
            Stage::Ending | Stage::Ended => MOST_CALLS_AT_END,
        };
        if self.calls > most && !self.is_broken() {
            self.violate(format!(
                "{:?}: still running after {most} calls of the kernel",
                self.stage
            ));
        }
        self.pass(CALL_TIME);
        if self.is_broken() {
            // A deadline bounds every wait of the runtime.
            self.pass(Duration::from_secs(20));
            self.wake_root();
            return;
        }
        if self.bustle > 0 {
            for _ in 0..self.choices.below(self.bustle + 1) {
                self.make_move();
            }
        }
    }

    /// Whether `make_move` would change anything.
    pub(crate) fn can_move(&self) -> bool {
        !self.is_broken()
            && ((0..self.senders.len()).any(|sender| self.can_send(sender))
                || self.sockets.iter().any(|socket| !socket.wire.is_empty())
                || self.sockets.iter().any(|socket| socket.send_buffer_full))
    }

    fn can_send(&self, sender: usize) -> bool {
        let sender = &self.senders[sender];
        let socket = &self.sockets[sender.target];
        !sender.has_given_up && sender.left != Some(0) && !socket.blocks_senders()
    }

    /// Somebody outside of the program does something.
    pub(crate) fn make_move(&mut self) {
        self.moves += 1;
        match self.choices.below(10) {
            0..5 => self.move_sender(),
            5..8 => self.move_wire(),
            8 => self.move_error(),
            _ => {
                for index in 0..self.sockets.len() {
                    if self.sockets[index].send_buffer_full {
                        self.sockets[index].send_buffer_full = false;
                        self.wake_writers();
                    }
                }
            }
        }
        if self.root.as_ref().is_some_and(|(at, _)| *at <= self.moves) {
            self.wake_root();
        }
    }

    fn move_sender(&mut self) {
        let able: Vec<usize> = (0..self.senders.len()).filter(|&at| self.can_send(at)).collect();
        if able.is_empty() {
            return;
        }
        let at = self.choices.one_of(&able);
        let count = self.choices.between(1, self.senders[at].burst);
        for _ in 0..count {
            if !self.can_send(at) {
                break;
            }
            let Sender { id, target, empties, trains, .. } = self.senders[at];
            let is_train = self.choices.chance(trains);
            let datagram = match is_train && self.sockets[target].kind == Kind::Udp {
                true => self.compose_train(id),
                false => self.compose(id, empties),
            };
            match self.send(target, datagram) {
                Sent::Yes => {}
                Sent::Failed(_) => self.senders[at].has_given_up = true,
            }
            if let Some(left) = &mut self.senders[at].left {
                *left -= 1;
            }
        }
    }

    fn move_wire(&mut self) {
        let waiting = |socket: &Socket| !socket.wire.is_empty();
        let able: Vec<usize> =
            (0..self.sockets.len()).filter(|&at| waiting(&self.sockets[at])).collect();
        if able.is_empty() {
            return;
        }
        let at = self.choices.one_of(&able);
        for _ in 0..self.choices.between(1, 4) {
            let Some(datagram) = self.sockets[at].wire.pop_front() else { break };
            self.note(match self.sockets[at].is_sealed() {
                true => Event::LateAfterSeal,
                false => Event::LateBeforeSeal,
            });
            self.arrive(at, datagram);
        }
    }

    fn move_error(&mut self) {
        let may_fail = |socket: &Socket| {
            socket.kind == Kind::Udp && socket.is_open() && socket.error.is_none()
        };
        let able: Vec<usize> =
            (0..self.sockets.len()).filter(|&at| may_fail(&self.sockets[at])).collect();
        if able.is_empty() || self.errors_left == 0 {
            return;
        }
        self.errors_left -= 1;
        let at = self.choices.one_of(&able);
        let error = self.choices.one_of(&[libc::ECONNREFUSED, libc::EHOSTUNREACH]);
        self.tell(format_args!("socket {at}: an error is pending ({error})"));
        self.sockets[at].error = Some(error);
        self.wake_receive(at);
    }

    /// A new datagram of random length.
    pub(crate) fn compose(&mut self, sender: u16, empties: usize) -> Datagram {
        let len = if self.choices.chance(empties) {
            0
        } else if self.choices.chance(8) {
            self.choices.between(self.buffer_size, self.buffer_size * 2 + 20)
        } else {
            self.choices.between(1, self.buffer_size.min(40))
        };
        self.compose_of(sender, len)
    }

    pub(crate) fn compose_of(&mut self, sender: u16, len: usize) -> Datagram {
        self.datagrams += 1;
        let number = self.datagrams;
        // Its number, followed by bytes that differ from those of nearby datagrams at each
        // position.
        let start = usize::from((number as u8).wrapping_mul(31));
        let mut payload = FILLING[start..start + len].to_vec();
        let counted = len.min(8);
        payload[..counted].copy_from_slice(&number.to_le_bytes()[..counted]);
        Datagram { number, payload: payload.into(), sender, segment_size: None }
    }

    /// A train of datagrams that the kernel received as one.
    fn compose_train(&mut self, sender: u16) -> Datagram {
        let size = self.choices.between(1, 9);
        let most = self.buffer_size / size;
        let len = size * self.choices.between(1, most.min(6) - 1) + self.choices.between(1, size);
        Datagram { segment_size: Some(size), ..self.compose_of(sender, len) }
    }

    /// A datagram that the program sends.
    pub(crate) fn compose_like(&mut self, sender: u16, payload: &[u8]) -> Datagram {
        self.datagrams += 1;
        Datagram { number: self.datagrams, payload: payload.into(), sender, segment_size: None }
    }

    /// Somebody sends a datagram to a socket.
    pub(crate) fn send(&mut self, target: usize, datagram: Datagram) -> Sent {
        let is_late = self.choices.chance(15);
        let socket = &mut self.sockets[target];
        match socket.kind {
            Kind::Udp if !socket.is_open() => Sent::Yes,
            // In order: the new datagram stays behind those in transit.
            Kind::Udp if is_late || !socket.wire.is_empty() => {
                socket.wire.push_back(datagram);
                Sent::Yes
            }
            Kind::Udp => {
                self.arrive(target, datagram);
                Sent::Yes
            }
            Kind::Unix if !socket.is_open() => Sent::Failed(libc::ECONNREFUSED),
            Kind::Unix if socket.is_sealed() => {
                self.note(Event::BrokenPipe);
                Sent::Failed(libc::EPIPE)
            }
            Kind::Unix if socket.is_full() => {
                self.note(Event::SenderBlocked);
                Sent::Failed(libc::EAGAIN)
            }
            Kind::Unix => {
                self.put(target, datagram);
                Sent::Yes
            }
        }
    }

    /// A UDP datagram arrives at its socket.
    fn arrive(&mut self, target: usize, datagram: Datagram) {
        let socket = &mut self.sockets[target];
        if !socket.is_open() {
            return;
        }
        if socket.is_sealed() {
            socket.ledger.refused += 1;
            self.tell(format_args!("socket {target}: refuses {}", datagram.number));
            self.note(Event::Refused);
        } else if socket.is_full() {
            socket.ledger.dropped += 1;
            self.tell(format_args!("socket {target}: is full, drops {}", datagram.number));
            self.note(Event::DroppedFull);
        } else {
            self.put(target, datagram);
        }
    }

    fn put(&mut self, target: usize, datagram: Datagram) {
        self.tell(format_args!(
            "socket {target}: queues {} ({} bytes)",
            datagram.number,
            datagram.payload.len()
        ));
        self.note(Event::Queued);
        self.sockets[target].put(datagram);
        self.wake_receive(target);
    }

    /// The main future waits for `moves` moves, or until nothing can move any more.
    pub(crate) fn await_moves(&mut self, moves: u64, waker: Waker) {
        self.root = Some((self.moves + moves, waker));
    }

    /// Whether the main future waits for moves.
    pub(crate) fn is_awaited(&self) -> bool {
        self.root.is_some()
    }

    /// Wakes the main future from another thread. This does not touch the driver.
    pub(crate) fn wake_root(&mut self) {
        let Some((_, waker)) = self.root.take() else { return };
        waker.wake();
        // If the thread sleeps, its eventfd was written to.
        if self.take_eventfd() {
            self.wake_watch();
        }
    }

    /// Whether the eventfd was written to since the last call. The program never reads it.
    pub(crate) fn take_eventfd(&mut self) -> bool {
        let is_written =
            self.eventfd.as_ref().is_some_and(|mut file| file.read(&mut [0; 8]).is_ok());
        self.was_written |= is_written;
        is_written
    }
}
