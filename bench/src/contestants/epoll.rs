//! Hand-written loops on epoll, one recvfrom(2) per datagram: level-triggered, which is what
//! asyncio does, and edge-triggered.

// UNSAFETY: epoll_wait, recvfrom and sendto take raw pointers.
#![expect(unsafe_code, reason = "argued above")]

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::{Contestant, Echo, Exit, ExitBy, Sink};
use crate::harness::tally::Flow;

/// Level-triggered, one datagram per wake and socket: what asyncio's `add_reader` does.
pub(super) const ONE: Contestant = Contestant {
    sink: Some(sink_one),
    unix_sink: Some(sink_one),
    echo: Some(echo_one),
    echo_coalesced: Some(echo_one),
    exit: Some(exit_one),
    ..Contestant::new("epoll-one", "hand-written: level-triggered epoll, one recvfrom per wake")
};

/// Edge-triggered, until `EAGAIN`, with a ready queue served round-robin.
pub(super) const EDGE: Contestant = Contestant {
    sink: Some(sink_edge),
    unix_sink: Some(sink_edge),
    echo: Some(echo_edge),
    echo_coalesced: Some(echo_edge),
    ..Contestant::new(
        "epoll",
        "hand-written: edge-triggered epoll until EAGAIN, with a ready queue",
    )
};

/// Datagrams of one socket before the next one has its turn.
const TURN: usize = 32;

/// Events of one epoll_wait(2).
const EVENTS: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    Level,
    Edge,
}

/// An epoll instance; sockets are known by their indices.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } as isize)? as RawFd;
        // SAFETY: a new descriptor, owned by nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS] })
    }

    /// Adds the sockets that are active, then those that are idle.
    pub(super) fn of(sink: &Sink, trigger: Trigger) -> io::Result<Self> {
        let poller = Self::new()?;
        let active = sink.active.iter().map(|(socket, _)| socket);
        for (index, socket) in active.chain(&sink.idle).enumerate() {
            poller.add(socket, index, trigger)?;
        }
        Ok(poller)
    }

    pub(super) fn add(
        &self,
        socket: &impl AsRawFd,
        index: usize,
        trigger: Trigger,
    ) -> io::Result<()> {
        let edge = if trigger == Trigger::Edge { libc::EPOLLET } else { 0 };
        let mut event =
            libc::epoll_event { events: (libc::EPOLLIN | edge) as u32, u64: index as u64 };
        // SAFETY: `event` lives until the call returns.
        check(unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd(),
                &raw mut event,
            )
        } as isize)?;
        Ok(())
    }

    /// Waits for at least one socket, or, if `poll`, for none.
    pub(super) fn wait(&mut self, poll: bool) -> io::Result<impl Iterator<Item = usize> + '_> {
        let timeout = if poll { 0 } else { -1 };
        // SAFETY: there is space for `EVENTS` events.
        let count = check(unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                EVENTS as i32,
                timeout,
            )
        } as isize)?;
        Ok(self.events[..count].iter().map(|event| event.u64 as usize))
    }
}

/// One datagram and where it came from.
fn receive_from(socket: RawFd, buffer: &mut [u8], peer: &mut Peer) -> io::Result<usize> {
    peer.length = size_of_val(&peer.address) as libc::socklen_t;
    // SAFETY: buffer and address live until the call returns, and have the lengths that are passed.
    check(unsafe {
        libc::recvfrom(
            socket,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
            (&raw mut peer.address).cast(),
            &raw mut peer.length,
        )
    })
}

fn send_to(socket: RawFd, payload: &[u8], peer: &Peer) -> io::Result<()> {
    // SAFETY: payload and address live until the call returns.
    check(unsafe {
        libc::sendto(
            socket,
            payload.as_ptr().cast(),
            payload.len(),
            0,
            (&raw const peer.address).cast(),
            peer.length,
        )
    })?;
    Ok(())
}

struct Peer {
    address: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Peer {
    fn new() -> Self {
        // SAFETY: all-zero bytes are a valid address of no family.
        Self { address: unsafe { mem::zeroed() }, length: 0 }
    }
}

pub(super) fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_negative| io::Error::last_os_error())
}

fn sink_one(mut sink: Sink) -> io::Result<()> {
    let mut poller = Poller::of(&sink, Trigger::Level)?;
    let mut buffer = vec![0; sink.largest];
    let mut peer = Peer::new();
    let mut left = sink.active.len();
    while left > 0 {
        for index in poller.wait(false)? {
            let (socket, tally) = &mut sink.active[index];
            let length = receive_from(socket.as_raw_fd(), &mut buffer, &mut peer)?;
            if tally.take(&buffer[..length]) == Flow::Done {
                left -= 1;
            }
        }
    }
    Ok(())
}

fn sink_edge(mut sink: Sink) -> io::Result<()> {
    let mut poller = Poller::of(&sink, Trigger::Edge)?;
    let mut buffer = vec![0; sink.largest];
    let mut peer = Peer::new();
    let mut ready = VecDeque::new();
    let mut is_ready = vec![false; sink.active.len()];
    let mut left = sink.active.len();
    while left > 0 {
        for index in poller.wait(!ready.is_empty())? {
            if !is_ready[index] {
                is_ready[index] = true;
                ready.push_back(index);
            }
        }
        for _ in 0..ready.len() {
            let Some(index) = ready.pop_front() else { break };
            let (socket, tally) = &mut sink.active[index];
            let mut drained = false;
            for _ in 0..TURN {
                match receive_from(socket.as_raw_fd(), &mut buffer, &mut peer) {
                    Ok(length) => {
                        if tally.take(&buffer[..length]) == Flow::Done {
                            left -= 1;
                            drained = true;
                            break;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        drained = true;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            is_ready[index] = !drained;
            if !drained {
                ready.push_back(index);
            }
        }
    }
    Ok(())
}

fn echo_one(echo: Echo) -> io::Result<()> {
    let Echo { socket, mut tally, largest } = echo;
    let mut poller = Poller::new()?;
    poller.add(&socket, 0, Trigger::Level)?;
    let mut buffer = vec![0; largest];
    let mut peer = Peer::new();
    loop {
        for _ in poller.wait(false)? {
            let length = receive_from(socket.as_raw_fd(), &mut buffer, &mut peer)?;
            let flow = tally.take(&buffer[..length]);
            send_to(socket.as_raw_fd(), &buffer[..length], &peer)?;
            if flow == Flow::Done {
                tally.finish();
                return Ok(());
            }
        }
    }
}

fn echo_edge(echo: Echo) -> io::Result<()> {
    let Echo { socket, mut tally, largest } = echo;
    let mut poller = Poller::new()?;
    poller.add(&socket, 0, Trigger::Edge)?;
    let mut buffer = vec![0; largest];
    let mut peer = Peer::new();
    loop {
        for _ in poller.wait(false)? {}
        loop {
            match receive_from(socket.as_raw_fd(), &mut buffer, &mut peer) {
                Ok(length) => {
                    let flow = tally.take(&buffer[..length]);
                    send_to(socket.as_raw_fd(), &buffer[..length], &peer)?;
                    if flow == Flow::Done {
                        tally.finish();
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

fn exit_one(exit: Exit) -> io::Result<()> {
    let Exit { socket, mut tally, by, largest } = exit;
    if by == ExitBy::Signal {
        block_terminate()?;
    }
    let signals = terminate_descriptor()?;
    let mut poller = Poller::new()?;
    poller.add(&socket, 0, Trigger::Level)?;
    poller.add(&signals, 1, Trigger::Level)?;
    let mut buffer = vec![0; largest];
    let mut peer = Peer::new();
    loop {
        for index in poller.wait(false)? {
            if index == 1 {
                return Ok(());
            }
            let length = receive_from(socket.as_raw_fd(), &mut buffer, &mut peer)?;
            if tally.take(&buffer[..length]) == Flow::Done && by == ExitBy::Return {
                return Ok(());
            }
        }
    }
}

fn terminate_set() -> libc::sigset_t {
    // SAFETY: all-zero bytes are a valid set on Linux; it is filled next.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: the same.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGTERM) };
    set
}

/// So that SIGTERM arrives only at the descriptor.
fn block_terminate() -> io::Result<()> {
    let set = terminate_set();
    // SAFETY: `set` lives until the call returns.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) }
        as isize)?;
    Ok(())
}

fn terminate_descriptor() -> io::Result<OwnedFd> {
    let set = terminate_set();
    // SAFETY: `set` lives until the call returns.
    let descriptor =
        check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK) } as isize)?;
    // SAFETY: a new descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}
