//! [`Flood`]: the sender of the sinks. Flow-controlled, so that the kernel drops nothing.

use std::hint;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::getppid;
use socket2::{Domain, Protocol, Socket, Type};

use super::sender::{BATCH, Destination, Sender};
use crate::harness::gate::Pace;
use crate::harness::shared::Shared;

/// How long the flood waits for progress of the receiver before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The call by which datagrams are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SendCall {
    /// One call per datagram.
    Send,
    /// sendmmsg(2), 64 a call, the sockets in turn.
    SendMmsg,
    /// One call per train of one socket.
    Gso,
}

/// What is sent, to each of the sockets.
#[derive(Clone, Debug)]
pub(crate) struct Flood {
    /// The counts at which stages end; the first is the warm-up.
    pub(crate) marks: Vec<u64>,
    pub(crate) pace: Pace,
    pub(crate) call: SendCall,
    pub(crate) size: usize,
    /// Datagrams per second after the warm-up, if limited.
    pub(crate) rate: Option<u64>,
    /// Datagrams of a live stage that may wait in one socket.
    pub(crate) window: u64,
}

/// Where the flood goes.
pub(crate) enum Target {
    /// The addresses of the sockets.
    Udp(Vec<SocketAddrV4>),
    /// A connected socket.
    Unix(OwnedFd),
}

impl Flood {
    pub(crate) fn run(
        &self,
        target: Target,
        shared: &Shared,
        mut control: UnixStream,
    ) -> io::Result<()> {
        let mut stream = self.stream(target, shared)?;
        let mut marks = self.marks.iter();
        if let Some(&warm) = marks.next() {
            // The warm-up is sent in the way the rest will be, so that what adapts to it is warm as
            // well.
            stream.fill(self, warm, self.window.min(warm))?;
        }
        for &mark in marks {
            control.read_exact(&mut [0])?;
            match (self.pace, self.rate) {
                (Pace::Backlog, _) => {
                    stream.fill(self, mark, u64::MAX)?;
                    control.write_all(b"f")?;
                }
                (_, None) => stream.fill(self, mark, self.window)?,
                (_, Some(rate)) => stream.trickle(mark, rate, self.window)?,
            }
        }
        Ok(())
    }
}

impl Flood {
    fn stream<'a>(&self, target: Target, shared: &'a Shared) -> io::Result<Stream<'a>> {
        let (socket, destinations) = match target {
            Target::Udp(addresses) => {
                (udp_sender()?, addresses.into_iter().map(|to| Some(raw(to))).collect())
            }
            Target::Unix(socket) => (socket, vec![None]),
        };
        Ok(Stream {
            sender: Sender::new(socket, self.size),
            sent: vec![0; destinations.len()],
            destinations,
            shared,
            next: 0,
            total: 0,
        })
    }

    /// Floods until the receiver closes its end of `control`. When `terminate`
    /// datagrams have been sent, sends SIGTERM to the receiver and records what had been sent.
    pub(crate) fn run_until_closed(
        &self,
        target: Target,
        shared: &Shared,
        mut control: &UnixStream,
        terminate: Option<u64>,
    ) -> io::Result<()> {
        control.set_nonblocking(true)?;
        let mut stream = self.stream(target, shared)?;
        let mut signalled = false;
        loop {
            if stream.push_train(u64::MAX, self.window) > 0 {
                let pushed = stream.sender.len();
                stream.sender.send_train()?;
                stream.publish(pushed);
            } else {
                match control.read(&mut [0]) {
                    Ok(0) => return Ok(()),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => hint::spin_loop(),
                }
            }
            if terminate.is_some_and(|count| stream.total >= count) && !signalled {
                signalled = true;
                shared.mark_exit();
                kill(getppid(), Signal::SIGTERM)?;
            }
        }
    }
}

struct Stream<'a> {
    sender: Sender,
    destinations: Vec<Destination>,
    /// Per socket.
    sent: Vec<u64>,
    shared: &'a Shared,
    /// The socket whose turn is next.
    next: usize,
    total: u64,
}

impl Stream<'_> {
    /// Sends to every socket until `mark`, never more than `window` ahead of the receiver.
    fn fill(&mut self, flood: &Flood, mark: u64, window: u64) -> io::Result<()> {
        let mut patience = Instant::now();
        while self.sent.iter().any(|&sent| sent < mark) {
            let pushed = match flood.call {
                SendCall::Gso => self.push_train(mark, window),
                SendCall::Send | SendCall::SendMmsg => self.push_in_turn(mark, window),
            };
            if pushed == 0 {
                if patience.elapsed() > PATIENCE {
                    return Err(stuck());
                }
                hint::spin_loop();
                continue;
            }
            match flood.call {
                SendCall::Gso => self.sender.send_train()?,
                SendCall::SendMmsg => self.sender.send_many()?,
                SendCall::Send => self.sender.send_each()?,
            }
            self.publish(pushed);
            patience = Instant::now();
        }
        Ok(())
    }

    /// Sends single datagrams at a fixed rate, to the sockets in turn.
    fn trickle(&mut self, mark: u64, rate: u64, window: u64) -> io::Result<()> {
        let begin = Instant::now();
        let period_ns = 1_000_000_000 / rate;
        let mut count = 0;
        while self.sent.iter().any(|&sent| sent < mark) {
            let due = Duration::from_nanos(count * period_ns);
            while begin.elapsed() < due {
                hint::spin_loop();
            }
            let index = self.next;
            self.next = (self.next + 1) % self.destinations.len();
            let patience = Instant::now();
            while self.allowance(index, mark, window) == 0 && self.sent[index] < mark {
                if patience.elapsed() > PATIENCE {
                    return Err(stuck());
                }
            }
            if self.sent[index] < mark {
                self.push(index);
                self.sender.send_each()?;
                self.publish(1);
                count += 1;
            }
        }
        Ok(())
    }

    /// A batch of one datagram per socket and round.
    fn push_in_turn(&mut self, mark: u64, window: u64) -> usize {
        let mut skipped = 0;
        while self.sender.len() < BATCH && skipped < self.destinations.len() {
            let index = self.next;
            self.next = (self.next + 1) % self.destinations.len();
            if self.allowance(index, mark, window) == 0 {
                skipped += 1;
            } else {
                skipped = 0;
                self.push(index);
            }
        }
        self.sender.len()
    }

    /// A batch for one socket, the next one that may be sent a train.
    fn push_train(&mut self, mark: u64, window: u64) -> usize {
        for _ in 0..self.destinations.len() {
            let index = self.next;
            self.next = (self.next + 1) % self.destinations.len();
            let limit = self.sender.train_limit() as u64;
            // A whole train, or the last one: else a full window would be sent in tiny trains.
            let wanted = limit.min(mark - self.sent[index]);
            if wanted > 0 && self.allowance(index, mark, window) >= wanted {
                for _ in 0..wanted {
                    self.push(index);
                }
                return self.sender.len();
            }
        }
        0
    }

    fn push(&mut self, index: usize) {
        self.sender.push(self.sent[index], self.destinations[index]);
        self.sent[index] += 1;
    }

    /// How many datagrams the socket may be sent now.
    fn allowance(&self, index: usize, mark: u64, window: u64) -> u64 {
        let left = mark - self.sent[index];
        if window == u64::MAX {
            return left;
        }
        let received = self.shared.received[index].0.load(Ordering::Acquire);
        left.min(window.saturating_sub(self.sent[index] - received))
    }

    fn publish(&mut self, count: usize) {
        self.total += count as u64;
        self.shared.sent.0.store(self.total, Ordering::Release);
    }
}

fn stuck() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the receiver makes no progress")
}

fn udp_sender() -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(socket.into())
}

fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}
