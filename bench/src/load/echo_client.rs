//! [`EchoClient`]: the client of an echo server, which checks its answers.
//!
//! A closed loop keeps a number of requests outstanding: an answer starts the next request of its
//! slot. An open loop sends on schedule, and its latencies count from the moment at which the
//! request was due, so a server cannot hide that it falls behind. Every answer must equal its
//! request byte for byte, and belong to a request that is outstanding.
//!
//! The client spins on a ring of its own, so that its latency and its batches are the same whatever
//! the server is.

// UNSAFETY: entries of the ring name the payloads to send.
#![expect(unsafe_code, reason = "argued above")]

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use io_uring::{cqueue, opcode, squeue, types};
use socket2::{Domain, Protocol, Socket, Type};

use super::sender::Sender;
use crate::raw_ring::{GROUP, RawRing, Shape};

/// How long the client waits for an answer before it calls the measurement void.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longer latencies count as this one: nothing waits longer than the client's patience.
const MOST_LATENCY_NS: u64 = 10_000_000_000;

/// User data of sends, which complete with an entry only if they fail.
const SEND: u64 = u64::MAX;

/// What the client does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EchoClient {
    /// Sockets of the client: peers of the server.
    pub(crate) peers: usize,
    /// Requests of all peers together that are outstanding; a multiple of `peers`.
    pub(crate) outstanding: usize,
    pub(crate) size: usize,
    /// Requests before the measured ones.
    pub(crate) warm: u64,
    /// Requests in all.
    pub(crate) total: u64,
    /// Requests per second: an open loop. `None`: a closed one.
    pub(crate) rate: Option<u64>,
    /// A single peer may send what is due in one GSO train.
    pub(crate) trains: bool,
}

/// What the client saw of the measured requests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answers {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) per_second: f64,
}

/// One request that can be outstanding.
struct Slot {
    payload: Vec<u8>,
    peer: usize,
    /// When it was sent or due; `None` while it is not outstanding.
    since: Option<Instant>,
}

struct Client {
    plan: EchoClient,
    ring: RawRing,
    peers: Vec<Socket>,
    slots: Vec<Slot>,
    /// For trains.
    sender: Option<Sender>,
    histogram: Histogram<u64>,
    sent: u64,
    answered: u64,
}

impl EchoClient {
    pub(crate) fn run(self, server: SocketAddr) -> io::Result<Answers> {
        let mut client = Client::new(self, server)?;
        let mut begin = Instant::now();
        let mut progress = Instant::now();
        // Slots that may send.
        let mut free: VecDeque<usize> = (0..self.outstanding).collect();
        let mut open = None;
        while client.answered < self.total {
            client.send_what_is_due(&mut free, &mut open)?;
            client.ring.visit()?;
            let before = client.answered;
            client.collect(&mut free)?;
            if before < self.warm && client.answered >= self.warm {
                begin = Instant::now();
            }
            if client.answered != before {
                progress = Instant::now();
            } else if progress.elapsed() > PATIENCE {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{} of {} requests were answered", client.answered, self.total),
                ));
            }
        }
        let measured = (self.total - self.warm) as f64;
        let us = |quantile| client.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Ok(Answers {
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            per_second: measured / begin.elapsed().as_secs_f64(),
        })
    }
}

impl Client {
    fn new(plan: EchoClient, server: SocketAddr) -> io::Result<Self> {
        assert!(plan.outstanding.is_multiple_of(plan.peers), "each peer has as many slots");
        let shape =
            Shape { submissions: 256, completions: 4096, buffers: 1024, size: 2048, stride: 2112 };
        let mut ring = RawRing::new(shape)?;
        let peers = (0..plan.peers).map(|_| connected(server)).collect::<io::Result<Vec<_>>>()?;
        for index in 0..peers.len() {
            arm(&mut ring, &peers, index)?;
        }
        let slots = (0..plan.outstanding)
            .map(|index| Slot {
                payload: vec![0; plan.size],
                peer: index % plan.peers,
                since: None,
            })
            .collect();
        let sender = match plan.trains {
            true => Some(Sender::new(peers[0].try_clone()?.into(), plan.size)),
            false => None,
        };
        let histogram =
            Histogram::new_with_bounds(1, MOST_LATENCY_NS, 3).map_err(io::Error::other)?;
        Ok(Self { plan, ring, peers, slots, sender, histogram, sent: 0, answered: 0 })
    }

    fn send_what_is_due(
        &mut self,
        free: &mut VecDeque<usize>,
        open: &mut Option<Instant>,
    ) -> io::Result<()> {
        while self.sent < self.plan.total {
            let due = match self.plan.rate {
                // The warm-up is a closed loop.
                Some(rate) if self.sent >= self.plan.warm => {
                    let begin = *open.get_or_insert_with(Instant::now);
                    let count = self.sent - self.plan.warm;
                    let due = begin + Duration::from_nanos(count * 1_000_000_000 / rate);
                    if Instant::now() < due {
                        break;
                    }
                    due
                }
                _ => Instant::now(),
            };
            let Some(index) = free.pop_front() else { break };
            self.request(index, due)?;
        }
        self.flush_train()
    }

    /// Sends the next request of a slot.
    fn request(&mut self, index: usize, due: Instant) -> io::Result<()> {
        let slot = &mut self.slots[index];
        let number = ((self.sent) << 16) | index as u64;
        slot.payload[..8].copy_from_slice(&number.to_le_bytes());
        slot.payload[8..].fill(self.sent as u8);
        slot.since = Some(due);
        self.sent += 1;
        if let Some(sender) = &mut self.sender {
            sender.push_payload(&slot.payload);
            if sender.len() == sender.train_limit() {
                sender.send_train()?;
            }
            return Ok(());
        }
        let descriptor = types::Fd(self.peers[slot.peer].as_raw_fd());
        let entry = opcode::Send::new(descriptor, slot.payload.as_ptr(), slot.payload.len() as u32)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(SEND);
        // SAFETY: the payload is on the heap, and is not written before the answer to it has come,
        // which means that it was sent.
        unsafe { self.ring.push(&entry) }
    }

    fn flush_train(&mut self) -> io::Result<()> {
        match &mut self.sender {
            Some(sender) if sender.len() > 0 => sender.send_train(),
            _ => Ok(()),
        }
    }

    fn collect(&mut self, free: &mut VecDeque<usize>) -> io::Result<()> {
        let now = Instant::now();
        let mut ended = Vec::new();
        let RawRing { ring, pool } = &mut self.ring;
        for completion in ring.completion() {
            if completion.user_data() == SEND {
                return Err(io::Error::from_raw_os_error(-completion.result()));
            }
            let peer = completion.user_data() as usize;
            if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
                let answer = pool.bytes(buffer, completion.result().max(0) as usize);
                let index = take_answer(&mut self.slots, peer, answer)?;
                let since = self.slots[index].since.take().expect("take_answer has checked it");
                self.answered += 1;
                if self.answered > self.plan.warm {
                    self.histogram.saturating_record((now - since).as_nanos() as u64);
                }
                free.push_back(index);
                pool.put_back(buffer);
            } else if completion.result() != -libc::ENOBUFS {
                return Err(io::Error::from_raw_os_error(-completion.result()));
            }
            if !cqueue::more(completion.flags()) {
                ended.push(peer);
            }
        }
        pool.publish();
        for peer in ended {
            arm(&mut self.ring, &self.peers, peer)?;
        }
        Ok(())
    }
}

/// The slot whose request this is the answer to.
fn take_answer(slots: &mut [Slot], peer: usize, answer: &[u8]) -> io::Result<usize> {
    let number = answer.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
    let index = (number & 0xffff) as usize;
    match slots.get(index) {
        Some(slot) if slot.peer == peer && slot.since.is_some() && slot.payload == answer => {
            Ok(index)
        }
        _ => Err(io::Error::other(format!(
            "an answer of {} bytes to peer {peer} that equals no outstanding request",
            answer.len()
        ))),
    }
}

fn arm(ring: &mut RawRing, peers: &[Socket], index: usize) -> io::Result<()> {
    let entry = opcode::RecvMulti::new(types::Fd(peers[index].as_raw_fd()), GROUP)
        .build()
        .user_data(index as u64);
    // SAFETY: it names no memory but the pool, which stays mapped.
    unsafe { ring.push(&entry) }
}

fn connected(server: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(1 << 22)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.connect(&server.into())?;
    Ok(socket)
}
