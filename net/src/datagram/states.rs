//! Every call in every state of a UDP socket's receive. Whatever a program calls, nothing panics,
//! and each datagram is received once and in order. A sealed socket stays sealed, and a filter of
//! the program goes on filtering.
//!
//! Programs are generated: a state, a few random calls, and one of the ways in which a socket ends.

// UNSAFETY: SO_LOCK_FILTER and SO_MEMINFO have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use ebbtide_runtime::Wakes;
use ebbtide_runtime::driver::DriverChoice;
use ebbtide_runtime::task::yield_now;
use ebbtide_runtime::{Builder, Drain, Drainable, Pass, ReadProgress, Runtime};
use socket2::{SockFilter, Socket};

use crate::{Datagram, Exit, Transmit, UdpSocket};

/// Looks after which what was sent is taken to be lost.
const MOST_LOOKS: usize = 1_000_000;

/// Lets another thread run. False, so that a search goes on.
fn yield_thread() -> bool {
    thread::yield_now();
    false
}

/// What changes with each datagram that is queued or dropped: the memory of the queue, and the drop
/// counter (`SK_MEMINFO_RMEM_ALLOC`, `SK_MEMINFO_DROPS`).
fn arrivals(socket: &impl AsFd) -> [u32; 2] {
    let mut values = [0u32; 9];
    let mut len = libc::socklen_t::try_from(size_of_val(&values)).unwrap();
    let (number, memory) = (socket.as_fd().as_raw_fd(), (&raw mut values).cast());
    // SAFETY: the pointers name `values` and its length, and the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_MEMINFO, memory, &raw mut len)
    };
    assert_eq!(result, 0);
    [values[0], values[8]]
}

/// The state of the receive when the calls begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Armed,
    /// Armed, but waiting for buffers: the program holds all of them.
    Starved,
    /// A cancel is in flight, because the socket holds its share.
    Pausing,
    Paused,
    Faulted,
    /// Sealed, and a cancel is in flight.
    Sealing,
    Reading,
    Drained,
    GivenUp,
    /// Drained, and what is queued is left to others.
    Left,
}

impl State {
    const ALL: [Self; 10] = [
        Self::Armed,
        Self::Starved,
        Self::Pausing,
        Self::Paused,
        Self::Faulted,
        Self::Sealing,
        Self::Reading,
        Self::Drained,
        Self::GivenUp,
        Self::Left,
    ];
}

/// The filter that the program has attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    None,
    Own,
    /// Own and locked, so that the socket cannot be sealed.
    Locked,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    GroOff,
    GroOn,
    Connect,
    Options,
    TakeError,
    Drain,
    TryRecv,
    Send,
    Yield,
}

const CALLS: [Call; 9] = [
    Call::GroOff,
    Call::GroOn,
    Call::Connect,
    Call::Options,
    Call::TakeError,
    Call::Drain,
    Call::TryRecv,
    Call::Send,
    Call::Yield,
];

/// How the program gets the remaining datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Drain,
    IntoStd,
}

/// The length of a numbered datagram.
pub(super) const LEN: usize = 24;

/// The first byte of datagrams that the filter refuses.
pub(super) const MARK: u8 = b'!';

/// What is sent after the seal, and must never arrive.
const LATE: &[u8] = b"late";

pub(super) fn numbered(number: u64) -> [u8; LEN] {
    let mut payload = [0; LEN];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

struct Rig {
    runtime_buffers: usize,
    receiver: UdpSocket,
    address: SocketAddr,
    sender: UdpSocket,
    /// A separate socket, and datagrams received from it that the program keeps.
    other: UdpSocket,
    held: Vec<Datagram>,
    filter: Filter,
    sent: u64,
    received: u64,
    /// What the generated program has done, for the message of a failure.
    story: Vec<String>,
}

impl Rig {
    async fn new(buffers: usize, filter: Filter) -> Self {
        let bound = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = bound.local_addr().unwrap();
        if filter != Filter::None {
            refuse_marked(&bound);
        }
        if filter == Filter::Locked {
            lock_filter(&bound);
        }
        let receiver = UdpSocket::from_std(bound).unwrap();
        receiver.set_gro(true).unwrap();
        receiver.set_recv_buffer_size(1 << 20).unwrap();
        // It is connected to another peer, so for the receiver its port is closed.
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect("127.0.0.1:9").unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        Self {
            runtime_buffers: buffers,
            receiver,
            address,
            sender,
            other,
            held: Vec::new(),
            filter,
            sent: 0,
            received: 0,
            story: Vec::new(),
        }
    }

    /// Sends `count` datagrams, as one train or one by one, and waits until they have arrived
    /// (docs/kernel.md, K-CPU-4).
    fn send(&mut self, count: usize, as_train: bool) {
        let messages = if as_train { vec![count] } else { vec![1; count] };
        for count in messages {
            let before = arrivals(&self.receiver);
            self.send_message(count);
            let has_arrived = || arrivals(&self.receiver) != before;
            assert!((0..MOST_LOOKS).any(|_| has_arrived() || yield_thread()), "it got lost");
        }
    }

    /// Sends `count` datagrams as one message.
    fn send_message(&mut self, count: usize) {
        let payload: Vec<u8> = (self.sent..self.sent + count as u64).flat_map(numbered).collect();
        let train = [Transmit::to(&payload, self.address).segment_size(LEN)];
        assert_eq!(self.sender.try_send_batch(&train).unwrap(), 1);
        self.sent += count as u64;
    }

    /// Sends more than one batch of the drain: several trains, each one message, and many
    /// datagrams.
    fn send_many(&mut self) {
        for _ in 0..3 {
            self.send(10, true);
        }
        self.send(150, false);
        self.send(10, true);
    }

    fn receive(&mut self, payload: &[u8]) {
        assert_eq!(payload, numbered(self.received), "not datagram {}", self.received);
        self.received += 1;
    }

    fn is_sealed(&self) -> bool {
        self.receiver.endpoint().receive.has_seal()
    }

    fn is_left(&self) -> bool {
        self.receiver.endpoint().receive.is_left()
    }

    fn state(&self) -> String {
        self.receiver.endpoint().receive.machine().state()
    }

    async fn turns(&self) {
        for _ in 0..5 {
            yield_now().await;
        }
    }

    fn drain(&self) {
        match self.receiver.drain() {
            Ok(()) => assert!(self.filter != Filter::Locked || self.is_left()),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
                assert_eq!(self.filter, Filter::Locked);
            }
        }
    }

    async fn bring_to(&mut self, state: State) {
        match state {
            State::Armed => self.send(10, true),
            State::Starved => {
                let address = self.other.local_addr().unwrap();
                while self.held.len() < self.runtime_buffers {
                    self.sender.try_send_to(b"held", address).unwrap();
                    self.held.push(self.other.recv().await.unwrap().expect("not drained"));
                }
                // The receive is armed again and finds no buffer.
                let endpoint = self.receiver.endpoint();
                endpoint.receive.without_receive(&endpoint.socket, || Ok(())).unwrap();
                assert_eq!(endpoint.socket.registration.pool().free(), 0);
                self.send_many();
                self.turns().await;
                assert_eq!((self.state().as_str(), self.receiver.stats().received), ("Armed", 0));
            }
            State::Pausing => {
                self.send(20, false);
                let endpoint = self.receiver.endpoint();
                let verdict = endpoint.receive.machine().pause();
                endpoint.receive.carry_out(&endpoint.socket, verdict);
                self.send(20, true);
            }
            State::Paused => {
                let enough = self.runtime_buffers / 2 + 2;
                self.send(enough, false);
                for _ in 0..1_000 {
                    if self.state() == "Paused" {
                        break;
                    }
                    yield_now().await;
                }
                assert_eq!(self.state(), "Paused");
                self.send_many();
            }
            State::Faulted => {
                self.receiver.connect(self.sender.local_addr().unwrap()).unwrap();
                self.receiver.try_send(b"anybody there?").unwrap();
                for _ in 0..1_000 {
                    if self.state() == "Faulted" {
                        break;
                    }
                    yield_now().await;
                }
                assert_eq!(self.state(), "Faulted");
                self.send_many();
            }
            State::Sealing => {
                self.send_many();
                let endpoint = self.receiver.endpoint();
                let _ = endpoint.seal();
                endpoint.cancel();
            }
            State::Left => {
                self.send_many();
                self.receiver.set_exit(Exit::Leave).unwrap();
                self.drain();
                self.send_many();
                assert_eq!(self.state(), "Drained");
            }
            State::Reading => {
                self.send_many();
                self.drain();
                assert_eq!(self.state(), "Reading");
            }
            State::Drained | State::GivenUp => {
                self.send_many();
                self.drain();
                let endpoint = self.receiver.endpoint();
                if state == State::GivenUp {
                    return endpoint.receive.machine().give_up();
                }
                let mut wakes = Wakes::default();
                while endpoint.read(1_000, Pass::Last, &mut wakes) == ReadProgress::More {}
                wakes.run();
                assert_eq!(self.state(), "Drained");
            }
        }
    }

    async fn call(&mut self, call: Call) {
        let state = self.state();
        let socket = &self.receiver;
        let result = match call {
            Call::GroOff => socket.set_gro(false),
            Call::GroOn => socket.set_gro(true),
            Call::Connect => socket.connect(self.sender.local_addr().unwrap()),
            Call::Options => socket
                .set_recv_buffer_size(1 << 19)
                .and_then(|()| socket.set_broadcast(true))
                .and_then(|()| socket.set_ttl(33)),
            Call::TakeError => socket.take_error().map(drop),
            Call::Drain => {
                self.drain();
                Ok(())
            }
            Call::TryRecv => {
                if let Ok(Some(datagram)) = socket.try_recv() {
                    self.receive(&datagram);
                }
                Ok(())
            }
            Call::Send => {
                if self.is_sealed() {
                    self.sender.try_send_to(LATE, self.address).unwrap();
                } else {
                    self.send(3, true);
                    self.send(2, false);
                }
                if self.filter != Filter::None {
                    self.sender.try_send_to(&[MARK], self.address).unwrap();
                }
                Ok(())
            }
            Call::Yield => {
                self.held.clear();
                self.turns().await;
                Ok(())
            }
        };
        self.story.push(format!("{call:?} in {state}: {result:?}"));
        match result {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && self.is_left() => {
                assert!(self.receiver.gro(), "{error}");
            }
            result => result.unwrap_or_else(|error| panic!("{call:?}: {error}")),
        }
    }

    async fn end(mut self, end: End) {
        self.held.clear();
        let others = Socket::from(self.receiver.as_fd().try_clone_to_owned().unwrap());
        let is_left = self.is_left();
        match end {
            End::Drain => {
                if !self.is_sealed() {
                    self.send(3, true);
                }
                self.drain();
                loop {
                    match self.receiver.recv().await {
                        Ok(Some(datagram)) => self.receive(&datagram),
                        Ok(None) => break,
                        // The peer's port was closed for a moment.
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
                    }
                }
            }
            End::IntoStd => {
                let other = UdpSocket::bind("127.0.0.1:0").unwrap();
                let receiver = std::mem::replace(&mut self.receiver, other);
                let (socket, taken) = receiver.into_std().unwrap();
                taken.iter().for_each(|datagram| self.receive(datagram));
                self.send_message(5);
                if self.filter != Filter::None {
                    self.sender.try_send_to(&[MARK], self.address).unwrap();
                }
                let mut memory = [0; 1_000];
                let mut looks = 0;
                loop {
                    match socket.recv(&mut memory) {
                        Ok(len) => self.receive(&memory[..len]),
                        // What was sent may still wait for its CPU (docs/kernel.md, K-CPU-4).
                        Err(error)
                            if error.kind() == io::ErrorKind::WouldBlock
                                && self.received < self.sent
                                && looks < MOST_LOOKS =>
                        {
                            looks += 1;
                            thread::yield_now();
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
                    }
                }
            }
        }
        if is_left && end == End::Drain {
            // Others who hold the socket read trains as they are.
            let mut memory = [0; 1_000];
            while let Ok(len) = (&others).read(&mut memory) {
                memory[..len].chunks(LEN).for_each(|datagram| self.receive(datagram));
            }
        }
        assert_eq!(self.received, self.sent);
    }
}

/// Prints what the program had done when a panic unwinds.
impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}, {} of {}: {:#?}", self.filter, self.received, self.sent, self.story);
        }
    }
}

/// Attaches a filter that refuses datagrams whose first byte is [`MARK`]. A filter sees the UDP
/// header first.
pub(super) fn refuse_marked(socket: &impl AsFd) {
    let socket = Socket::from(socket.as_fd().try_clone_to_owned().unwrap());
    let instruction = |code: u32, if_true, if_false, operand| {
        SockFilter::new(code as u16, if_true, if_false, operand)
    };
    let program = [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 8),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::from(MARK)),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    socket.attach_filter(&program).unwrap();
}

fn lock_filter(socket: &impl AsRawFd) {
    let locked: libc::c_int = 1;
    // SAFETY: the pointer names `locked` and its length, which are only read.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LOCK_FILTER,
            (&raw const locked).cast(),
            size_of_val(&locked) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Runs a generated program for each state, filter and end.
fn play(shape: impl Fn() -> Builder, buffers: usize) {
    for seed in 1..=12 {
        let mut random = fastrand::Rng::with_seed(seed);
        for state in State::ALL {
            for filter in [Filter::None, Filter::Own, Filter::Locked] {
                let end = [End::Drain, End::IntoStd][random.usize(..2)];
                let runtime = shape().buffers(buffers).build().unwrap();
                runtime.block_on(async {
                    let mut rig = Rig::new(buffers, filter).await;
                    rig.story.push(format!("seed {seed}: {state:?}, {end:?}"));
                    rig.bring_to(state).await;
                    // Each call comes first in some of the programs.
                    rig.call(CALLS[seed as usize % CALLS.len()]).await;
                    for _ in 0..random.usize(..5) {
                        rig.call(CALLS[random.usize(..CALLS.len())]).await;
                    }
                    rig.end(end).await;
                });
                runtime.shutdown(Drain::default());
            }
        }
    }
}

#[test]
fn every_call_in_every_state_on_a_ring() {
    play(Runtime::builder, 64);
}

#[test]
fn every_call_in_every_state_on_tiny_queues() {
    play(|| Runtime::builder().submission_entries(2).completion_entries(8), 4);
}

#[test]
fn every_call_in_every_state_on_epoll() {
    play(|| Runtime::builder().driver(DriverChoice::Epoll), 64);
}
