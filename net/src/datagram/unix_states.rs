//! Every call in every state of a Unix datagram socket's receive. See `states.rs` for UDP. Unix
//! sockets have neither GRO nor filters, and their seal cannot be removed.

use std::io;

use ebbtide_runtime::Wakes;
use ebbtide_runtime::driver::DriverChoice;
use ebbtide_runtime::task::yield_now;
use ebbtide_runtime::{Builder, Drain, Drainable, Pass, ReadProgress, Runtime};

use super::states::{LEN, numbered};
use crate::{Datagram, Exit, UnixAddr, UnixDatagram};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Armed,
    Starved,
    Pausing,
    Paused,
    Sealing,
    Reading,
    Drained,
    GivenUp,
    Left,
}

const STATES: [State; 9] = [
    State::Armed,
    State::Starved,
    State::Pausing,
    State::Paused,
    State::Sealing,
    State::Reading,
    State::Drained,
    State::GivenUp,
    State::Left,
];

#[derive(Clone, Copy, Debug)]
enum Call {
    Connect,
    Options,
    TakeError,
    Drain,
    TryRecv,
    Send,
    Yield,
}

const CALLS: [Call; 7] = [
    Call::Connect,
    Call::Options,
    Call::TakeError,
    Call::Drain,
    Call::TryRecv,
    Call::Send,
    Call::Yield,
];

struct Rig {
    buffers: usize,
    receiver: UnixDatagram,
    sender: UnixDatagram,
    /// Datagrams of other sockets that the program keeps.
    held: Vec<Datagram<UnixAddr>>,
    sent: u64,
    received: u64,
    /// What the generated program has done, for the message of a failure.
    story: Vec<String>,
}

impl Rig {
    fn new(buffers: usize) -> Self {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        sender.set_send_buffer_size(2 << 20).unwrap();
        Self {
            buffers,
            receiver,
            sender,
            held: Vec::new(),
            sent: 0,
            received: 0,
            story: Vec::new(),
        }
    }

    /// Sends `count` datagrams. 150 are more than one batch of the drain.
    fn send(&mut self, count: u64) {
        for number in self.sent..self.sent + count {
            self.sender.try_send(&numbered(number)).unwrap();
        }
        self.sent += count;
    }

    fn receive(&mut self, payload: &[u8]) {
        assert_eq!(payload, numbered(self.received), "not datagram {}", self.received);
        self.received += 1;
    }

    fn is_sealed(&self) -> bool {
        self.receiver.endpoint().receive.has_seal()
    }

    fn state(&self) -> String {
        self.receiver.endpoint().receive.machine().state()
    }

    async fn bring_to(&mut self, state: State) {
        let endpoint = self.receiver.endpoint().clone();
        match state {
            State::Armed => {}
            State::Starved => {
                let (sender, other) = UnixDatagram::pair().unwrap();
                while self.held.len() < self.buffers {
                    sender.try_send(b"held").unwrap();
                    self.held.push(other.recv().await.unwrap().expect("not drained"));
                }
                // The receive is armed again and finds no buffer.
                endpoint.receive.without_receive(&endpoint.socket, || Ok(())).unwrap();
                assert_eq!(endpoint.socket.registration.pool().free(), 0);
            }
            State::Pausing => {
                self.send(20);
                let verdict = endpoint.receive.machine().pause();
                endpoint.receive.carry_out(&endpoint.socket, verdict);
            }
            State::Paused => {
                self.send(self.buffers as u64 / 2 + 2);
                for _ in 0..1_000 {
                    if self.state() == "Paused" {
                        break;
                    }
                    yield_now().await;
                }
                assert_eq!(self.state(), "Paused");
            }
            State::Sealing => {
                self.send(150);
                endpoint.seal().unwrap();
                endpoint.cancel();
            }
            State::Left => {
                self.send(150);
                self.receiver.set_exit(Exit::Leave).unwrap();
                self.receiver.drain().unwrap();
                assert_eq!(self.state(), "Drained");
            }
            State::Reading | State::Drained | State::GivenUp => {
                self.send(150);
                self.receiver.drain().unwrap();
                assert_eq!(self.state(), "Reading");
            }
        }
        if !self.is_sealed() {
            self.send(150);
        }
        if state == State::GivenUp {
            endpoint.receive.machine().give_up();
        }
        if state == State::Drained {
            let mut wakes = Wakes::default();
            while endpoint.read(1_000, Pass::Last, &mut wakes) == ReadProgress::More {}
            wakes.run();
            assert_eq!(self.state(), "Drained");
        }
    }

    async fn call(&mut self, call: Call) {
        self.story.push(format!("{call:?} in {}", self.state()));
        match call {
            Call::Connect => {
                let name = UnixDatagram::pair().unwrap().0.local_addr().unwrap();
                self.receiver.connect_addr(&name).expect_err("it is connected, and to a name");
            }
            Call::Options => {
                self.receiver.set_recv_buffer_size(1 << 16).unwrap();
                self.receiver.set_send_buffer_size(1 << 16).unwrap();
            }
            Call::TakeError => assert!(self.receiver.take_error().unwrap().is_none()),
            Call::Drain => self.receiver.drain().unwrap(),
            Call::TryRecv => {
                if let Ok(Some(datagram)) = self.receiver.try_recv() {
                    self.receive(&datagram);
                }
            }
            Call::Send if self.is_sealed() => {
                let error = self.sender.try_send(b"late").expect_err("it is sealed");
                assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
            }
            Call::Send => self.send(5),
            Call::Yield => {
                self.held.clear();
                for _ in 0..5 {
                    yield_now().await;
                }
            }
        }
    }

    async fn end_by_drain(mut self) {
        self.held.clear();
        self.receiver.drain().unwrap();
        while let Some(datagram) = self.receiver.recv().await.unwrap() {
            self.receive(&datagram);
        }
        if self.receiver.endpoint().receive.is_left() {
            return self.end_by_into_std();
        }
        assert_eq!(self.received, self.sent);
    }

    fn end_by_into_std(mut self) {
        self.held.clear();
        let (_, other) = UnixDatagram::pair().unwrap();
        let receiver = std::mem::replace(&mut self.receiver, other);
        let is_sealed = receiver.endpoint().receive.has_seal();
        let (socket, taken) = receiver.into_std().unwrap();
        taken.iter().for_each(|datagram| self.receive(datagram));
        if !is_sealed {
            self.send(5);
        }
        let mut memory = [0; 2 * LEN];
        while let Ok(len) = socket.recv(&mut memory)
            && len > 0
        {
            self.receive(&memory[..len]);
        }
        assert_eq!(self.received, self.sent);
    }
}

/// Prints what the program had done when a panic unwinds.
impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} of {}: {:#?}", self.received, self.sent, self.story);
        }
    }
}

/// Runs a generated program for each state and end.
fn play(shape: impl Fn() -> Builder, buffers: usize) {
    for seed in 1..=14 {
        let mut random = fastrand::Rng::with_seed(seed);
        for state in STATES {
            let runtime = shape().buffers(buffers).build().unwrap();
            runtime.block_on(async {
                let mut rig = Rig::new(buffers);
                rig.story.push(format!("seed {seed}: {state:?}"));
                rig.bring_to(state).await;
                // Each call comes first in some of the programs.
                rig.call(CALLS[seed as usize % CALLS.len()]).await;
                for _ in 0..random.usize(..5) {
                    rig.call(CALLS[random.usize(..CALLS.len())]).await;
                }
                match random.usize(..2) {
                    0 => rig.end_by_drain().await,
                    _ => rig.end_by_into_std(),
                }
            });
            runtime.shutdown(Drain::default());
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
