//! Hand-written loops on edge-triggered epoll, with recvmmsg(2) and sendmmsg(2), without and with
//! GRO.

// UNSAFETY: recvmmsg, sendmmsg and control messages are raw.
#![expect(unsafe_code, reason = "argued above")]

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use super::epoll::{Poller, Trigger, check};
use super::{Contestant, Drain, Echo, Sink};
use crate::harness::tally::{EchoTally, Flow, Tally};

/// recvmmsg(2) of 64.
pub(super) const MMSG: Contestant = Contestant {
    sink: Some(|sink| run_sink(sink, Offload::None)),
    unix_sink: Some(|sink| run_sink(sink, Offload::None)),
    echo: Some(|echo| run_echo(echo, Offload::None)),
    echo_coalesced: Some(|echo| run_echo(echo, Offload::None)),
    drain: Some(run_drain),
    ..Contestant::new(
        "epoll-mmsg",
        "hand-written: edge-triggered epoll, recvmmsg and sendmmsg of 64",
    )
};

/// `epoll-mmsg` with GRO; answers to trains leave as trains.
pub(super) const MMSG_GRO: Contestant = Contestant {
    sink: Some(|sink| run_sink(sink, Offload::Gro)),
    sink_gro: Some(|sink| run_sink(sink, Offload::Gro)),
    echo: Some(|echo| run_echo(echo, Offload::Gro)),
    echo_coalesced: Some(|echo| run_echo(echo, Offload::Gro)),
    ..Contestant::new(
        "epoll-mmsg-gro",
        "hand-written: epoll-mmsg with GRO, and GSO for answers to trains",
    )
};

/// Messages of one call.
const MESSAGES: usize = 64;

/// Messages of one call where each may be a train: their buffers are 64 KiB each.
const TRAINS: usize = 16;

/// Space for one control message with an int in it.
const CONTROL: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Offload {
    None,
    Gro,
}

/// Turns GRO on.
pub(super) fn set_gro(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    } as isize)?;
    Ok(())
}

/// The segment size of a received message, if it is a train.
///
/// # Safety
///
/// `header` is as the kernel has filled it, and the memory that it names is valid.
pub(super) unsafe fn stride_of(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: a filled header.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return what is within the control data.
        let found = unsafe { message.read_unaligned() };
        if found.cmsg_level == libc::SOL_UDP && found.cmsg_type == libc::UDP_GRO {
            // SAFETY: the address of the data of a message.
            let data = unsafe { libc::CMSG_DATA(message) };
            // SAFETY: this message has an int in it (udp(7)).
            let stride = unsafe { data.cast::<libc::c_int>().read_unaligned() };
            return usize::try_from(stride).ok();
        }
        // SAFETY: a filled header, and a message of it.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    None
}

/// Memory for one recvmmsg(2), which serves the sendmmsg(2) of the answers as well.
struct Batch {
    count: usize,
    size: usize,
    offload: Offload,
    buffers: Vec<u8>,
    vectors: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<[u64; CONTROL / 8]>,
    messages: Vec<libc::mmsghdr>,
}

impl Batch {
    fn new(largest: usize, offload: Offload) -> Self {
        let (count, size) = match offload {
            Offload::None => (MESSAGES, largest),
            Offload::Gro => (TRAINS, 65_536),
        };
        let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: all-zero bytes are a valid address of no family.
        let name = unsafe { mem::zeroed() };
        // SAFETY: all-zero bytes are a valid mmsghdr.
        let message = unsafe { mem::zeroed() };
        let mut batch = Self {
            count,
            size,
            offload,
            buffers: vec![0; count * size],
            vectors: vec![vector; count],
            names: vec![name; count],
            controls: vec![[0; CONTROL / 8]; count],
            messages: vec![message; count],
        };
        for index in 0..count {
            batch.vectors[index].iov_base = batch.buffers[index * size..].as_mut_ptr().cast();
            let header = &mut batch.messages[index].msg_hdr;
            header.msg_name = (&raw mut batch.names[index]).cast();
            header.msg_iov = &raw mut batch.vectors[index];
            header.msg_iovlen = 1;
        }
        batch.prepare(count);
        batch
    }

    /// Makes the first `count` messages ready to receive into.
    fn prepare(&mut self, count: usize) {
        for index in 0..count {
            self.vectors[index].iov_len = self.size;
            let header = &mut self.messages[index].msg_hdr;
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            if self.offload == Offload::Gro {
                header.msg_control = self.controls[index].as_mut_ptr().cast();
                header.msg_controllen = CONTROL;
            }
        }
    }

    /// Receives what is queued. Less than a full batch means that the queue was empty.
    fn receive(&mut self, socket: RawFd) -> io::Result<usize> {
        // SAFETY: every header names memory of `self`, which does not move.
        check(unsafe {
            libc::recvmmsg(
                socket,
                self.messages.as_mut_ptr(),
                self.count as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        } as isize)
    }

    fn payload(&self, index: usize) -> &[u8] {
        let length = self.messages[index].msg_len as usize;
        &self.buffers[index * self.size..][..length]
    }

    fn stride(&self, index: usize) -> Option<usize> {
        match self.offload {
            Offload::None => None,
            // SAFETY: filled by the kernel; its memory is ours.
            Offload::Gro => unsafe { stride_of(&self.messages[index].msg_hdr) },
        }
    }

    /// Shows message `index` to a tally, in segments.
    fn show(&self, index: usize, mut take: impl FnMut(&[u8]) -> Flow) -> Flow {
        let payload = self.payload(index);
        match self.stride(index) {
            None => take(payload),
            Some(stride) => {
                for segment in payload.chunks(stride.max(1)) {
                    if take(segment) == Flow::Done {
                        return Flow::Done;
                    }
                }
                Flow::More
            }
        }
    }

    /// Sends the first `count` messages back to where they came from, trains as trains.
    fn answer(&mut self, socket: RawFd, count: usize) -> io::Result<()> {
        for index in 0..count {
            let stride = self.stride(index);
            self.vectors[index].iov_len = self.messages[index].msg_len as usize;
            let header = &mut self.messages[index].msg_hdr;
            match stride {
                None => header.msg_controllen = 0,
                Some(stride) => write_segment_size(header, stride),
            }
        }
        let mut first = 0;
        while first < count {
            // SAFETY: every header names memory of `self`, which does not move.
            first += check(unsafe {
                libc::sendmmsg(
                    socket,
                    self.messages[first..].as_mut_ptr(),
                    (count - first) as u32,
                    0,
                )
            } as isize)?;
        }
        Ok(())
    }
}

/// Makes `header` one that is sent in segments of `stride` bytes. It names control data of at least
/// 24 aligned bytes.
pub(super) fn write_segment_size(header: &mut libc::msghdr, stride: usize) {
    // SAFETY: computes a length.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(2) } as usize;
    // SAFETY: `header` names aligned memory with space for one message.
    let message = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: within that memory; not null, because there is space.
    let message = unsafe { &mut *message };
    message.cmsg_level = libc::SOL_UDP;
    message.cmsg_type = libc::UDP_SEGMENT;
    // SAFETY: computes a length.
    message.cmsg_len = unsafe { libc::CMSG_LEN(2) } as usize;
    // SAFETY: the address of the data of a message.
    let data = unsafe { libc::CMSG_DATA(message) };
    // SAFETY: there is space for two bytes.
    unsafe { data.cast::<u16>().write_unaligned(stride as u16) };
}

fn run_sink(mut sink: Sink, offload: Offload) -> io::Result<()> {
    if offload == Offload::Gro {
        sink.active.iter().try_for_each(|(socket, _)| set_gro(socket))?;
    }
    let mut poller = Poller::of(&sink, Trigger::Edge)?;
    let mut batch = Batch::new(sink.largest, offload);
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
            match turn(&mut batch, socket.as_raw_fd(), tally)? {
                Turn::Ready => ready.push_back(index),
                Turn::Empty => is_ready[index] = false,
                Turn::Done => {
                    is_ready[index] = false;
                    left -= 1;
                }
            }
        }
    }
    Ok(())
}

/// recvmmsg(2) until `EAGAIN`: the yardstick of every drain.
fn run_drain(drain: Drain) -> io::Result<()> {
    let Drain { socket, mut tally, backlog, largest } = drain;
    let mut batch = Batch::new(largest, Offload::None);
    backlog.fill();
    loop {
        let count = match batch.receive(socket.as_raw_fd()) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        };
        for index in 0..count {
            // The socket reports whether there is more.
            let _ = batch.show(index, |payload| tally.take(payload));
        }
        batch.prepare(count);
    }
    drop(socket);
    backlog.finish();
    Ok(())
}

enum Turn {
    /// There may be more.
    Ready,
    Empty,
    Done,
}

/// One call of one socket.
fn turn(batch: &mut Batch, socket: RawFd, tally: &mut Tally) -> io::Result<Turn> {
    let count = match batch.receive(socket) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Empty),
        Err(error) => return Err(error),
    };
    let mut flow = Flow::More;
    for index in 0..count {
        flow = batch.show(index, |payload| tally.take(payload));
    }
    batch.prepare(count);
    Ok(match flow {
        Flow::Done => Turn::Done,
        // What has come since makes a new edge.
        Flow::More if count < batch.count => Turn::Empty,
        Flow::More => Turn::Ready,
    })
}

fn run_echo(echo: Echo, offload: Offload) -> io::Result<()> {
    let Echo { socket, mut tally, largest } = echo;
    if offload == Offload::Gro {
        set_gro(&socket)?;
    }
    let mut poller = Poller::new()?;
    poller.add(&socket, 0, Trigger::Edge)?;
    let mut batch = Batch::new(largest, offload);
    loop {
        for _ in poller.wait(false)? {}
        loop {
            match answer_batch(&mut batch, socket.as_raw_fd(), &mut tally)? {
                Turn::Ready => {}
                Turn::Empty => break,
                Turn::Done => {
                    tally.finish();
                    return Ok(());
                }
            }
        }
    }
}

fn answer_batch(batch: &mut Batch, socket: RawFd, tally: &mut EchoTally) -> io::Result<Turn> {
    let count = match batch.receive(socket) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Empty),
        Err(error) => return Err(error),
    };
    let mut flow = Flow::More;
    for index in 0..count {
        flow = batch.show(index, |payload| tally.take(payload));
    }
    batch.answer(socket, count)?;
    batch.prepare(count);
    Ok(match flow {
        Flow::Done => Turn::Done,
        Flow::More if count < batch.count => Turn::Empty,
        Flow::More => Turn::Ready,
    })
}
