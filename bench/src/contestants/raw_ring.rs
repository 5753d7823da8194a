//! `raw-ring`: a hand-written loop on an io_uring. Multishot recvmsg into ring-mapped buffers, a
//! single thread, `DEFER_TASKRUN`, one enter for all that there is to do.

// UNSAFETY: entries of the ring name sockets' message headers and buffers of the pool.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;

use io_uring::types::{Fd, RecvMsgOut};
use io_uring::{cqueue, opcode, squeue};
use socket2::Socket;

use super::epoll_mmsg::{Offload, set_gro, stride_of, write_segment_size};
use super::{Contestant, Echo, Sink};
use crate::harness::fail;
use crate::harness::tally::Flow;
use crate::raw_ring::{GROUP, Pool, RawRing, Shape};

pub(super) const RAW_RING: Contestant = Contestant {
    sink: Some(|sink| run_sink(sink, Offload::None)),
    unix_sink: Some(|sink| run_sink(sink, Offload::None)),
    echo: Some(|echo| run_echo(echo, Offload::None)),
    echo_coalesced: Some(|echo| run_echo(echo, Offload::None)),
    ..Contestant::new("raw-ring", "hand-written: multishot recvmsg, sends through the same ring")
};

pub(super) const RAW_RING_GRO: Contestant = Contestant {
    sink: Some(|sink| run_sink(sink, Offload::Gro)),
    sink_gro: Some(|sink| run_sink(sink, Offload::Gro)),
    echo: Some(|echo| run_echo(echo, Offload::Gro)),
    echo_coalesced: Some(|echo| run_echo(echo, Offload::Gro)),
    ..Contestant::new(
        "raw-ring-gro",
        "hand-written: raw-ring with GRO, and GSO for answers to trains",
    )
};

/// Bytes for the address of the sender.
const NAME: usize = size_of::<libc::sockaddr_in>();

/// Bytes for the segment size of a train.
const CONTROL: usize = 24;

/// Bytes of the kernel's header in front of a message.
const HEADER: usize = 16;

/// Few buffers for one socket: the same memory is used again while it is in the cache, and an enter
/// brings 33 datagrams of a socket at most. Measured, 64 bytes: 183 ns with 64 buffers, 200 with
/// 1024; 1200 bytes: 295 and 380. More sockets need more, or they starve: 100 sockets, 1015 ns with
/// 64 buffers, 775 with 1024. (COOP_TASKRUN instead of DEFER_TASKRUN, buffers of a power of two,
/// and waiting for more completions at once were all slower or the same.)
fn shape(sockets: usize, largest: usize, offload: Offload) -> Shape {
    let (buffers, payload) = match offload {
        Offload::None => ((8 * sockets).next_power_of_two().clamp(64, 1024) as u16, largest),
        Offload::Gro => (64, 65_536),
    };
    let size = HEADER + NAME + CONTROL + payload;
    // An odd number of cache lines.
    let stride = (size.div_ceil(64) | 1) * 64;
    Shape { submissions: 256, completions: 4096, buffers, size, stride }
}

/// The layout of every message: how much the kernel may write in front of the payload.
fn template(offload: Offload) -> Box<libc::msghdr> {
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut template: Box<libc::msghdr> = Box::new(unsafe { mem::zeroed() });
    template.msg_namelen = NAME as libc::socklen_t;
    template.msg_controllen = if offload == Offload::Gro { CONTROL } else { 0 };
    template
}

/// Arms the receive of a socket. `template` must live as long as the ring.
fn arm(
    ring: &mut RawRing,
    socket: &Socket,
    template: &libc::msghdr,
    user_data: u64,
) -> io::Result<()> {
    let entry = opcode::RecvMsgMulti::new(Fd(socket.as_raw_fd()), template, GROUP)
        .flags(libc::MSG_TRUNC as u32)
        .build()
        .user_data(user_data);
    // SAFETY: the template is boxed, and outlives the ring's use in the functions here.
    unsafe { ring.push(&entry) }
}

/// The contents of a completion: a buffer, or only the end of a receive.
fn parse<'a>(
    pool: &'a Pool,
    completion: &cqueue::Entry,
    template: &libc::msghdr,
) -> Option<(u16, RecvMsgOut<'a>)> {
    let Some(buffer) = cqueue::buffer_select(completion.flags()) else {
        if completion.result() != -libc::ENOBUFS {
            let error = io::Error::from_raw_os_error(-completion.result());
            fail(&format!("a multishot ended: {error}"));
        }
        return None;
    };
    let bytes = pool.bytes(buffer, completion.result().max(0) as usize);
    match RecvMsgOut::parse(bytes, template) {
        Ok(message) => Some((buffer, message)),
        Err(()) => fail("a message without its header"),
    }
}

/// The segment size of a train.
fn stride(message: &RecvMsgOut<'_>) -> Option<usize> {
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    let control = message.control_data();
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = control.len();
    // SAFETY: names the control data that the kernel wrote.
    unsafe { stride_of(&header) }
}

fn run_sink(mut sink: Sink, offload: Offload) -> io::Result<()> {
    let mut ring = RawRing::new(shape(sink.active.len(), sink.largest, offload))?;
    let template = template(offload);
    if offload == Offload::Gro {
        sink.active.iter().try_for_each(|(socket, _)| set_gro(socket))?;
    }
    let active = sink.active.iter().map(|(socket, _)| socket);
    for (index, socket) in active.chain(&sink.idle).enumerate() {
        arm(&mut ring, socket, &template, index as u64)?;
    }
    let mut left = sink.active.len();
    let mut ended = Vec::new();
    while left > 0 {
        ring.wait_for(1)?;
        let RawRing { ring: queues, pool } = &mut ring;
        for completion in queues.completion() {
            let index = completion.user_data() as usize;
            if let Some((buffer, message)) = parse(pool, &completion, &template) {
                let tally = &mut sink.active[index].1;
                let payload = message.payload_data();
                let flow = match offload {
                    Offload::None => tally.take(payload),
                    Offload::Gro => match stride(&message) {
                        Some(stride) => tally.take_train(payload, stride),
                        None => tally.take(payload),
                    },
                };
                left -= usize::from(flow == Flow::Done);
                pool.put_back(buffer);
            }
            if !cqueue::more(completion.flags()) {
                ended.push(index);
            }
        }
        pool.publish();
        for index in ended.drain(..) {
            let socket = match sink.active.get(index) {
                Some((socket, _)) => socket,
                None => &sink.idle[index - sink.active.len()],
            };
            arm(&mut ring, socket, &template, index as u64)?;
        }
    }
    Ok(())
}

/// User data of the receive of an echo server; that of a send is its buffer.
const RECEIVE: u64 = u64::MAX;

fn run_echo(echo: Echo, offload: Offload) -> io::Result<()> {
    let Echo { socket, mut tally, largest } = echo;
    let shape = shape(1, largest, offload);
    let mut ring = RawRing::new(shape)?;
    let template = template(offload);
    if offload == Offload::Gro {
        set_gro(&socket)?;
    }
    arm(&mut ring, &socket, &template, RECEIVE)?;
    let mut last = Flow::More;
    // Buffers with a request to answer: the length of it, and of its segments if it is a train.
    let mut requests = Vec::with_capacity(usize::from(shape.buffers));
    let mut answers = Answers::new(&socket, usize::from(shape.buffers));
    let mut sending = 0_usize;
    while last == Flow::More || sending > 0 {
        // For a request as well as the sends, which complete at once. If it waited only for these,
        // each batch of answers would cost an enter that brings only their completions.
        ring.wait_for(sending + usize::from(last == Flow::More))?;
        let mut armed = true;
        let RawRing { ring: queues, pool } = &mut ring;
        for completion in queues.completion() {
            if completion.user_data() != RECEIVE {
                if completion.result() < 0 {
                    return Err(io::Error::from_raw_os_error(-completion.result()));
                }
                pool.put_back(completion.user_data() as u16);
                sending -= 1;
                continue;
            }
            if let Some((buffer, message)) = parse(pool, &completion, &template) {
                let payload = message.payload_data();
                let train = if offload == Offload::Gro { stride(&message) } else { None };
                for request in payload.chunks(train.unwrap_or(payload.len()).max(1)) {
                    last = tally.take(request);
                }
                requests.push((buffer, payload.len(), train));
            }
            armed &= cqueue::more(completion.flags());
        }
        pool.publish();
        for (buffer, length, train) in requests.drain(..) {
            let name = ring.pool.address(buffer).wrapping_add(HEADER);
            let payload = name.wrapping_add(NAME + template.msg_controllen);
            let entry = answers.entry(buffer, name, payload, length, train);
            // SAFETY: address and payload lie in a buffer that is returned only when the send has
            // completed, and the header of a train in `answers`, at the place of that buffer.
            unsafe { ring.push(&entry) }?;
            sending += 1;
        }
        if !armed {
            arm(&mut ring, &socket, &template, RECEIVE)?;
        }
    }
    tally.finish();
    Ok(())
}

/// What the sends of answers name, for each buffer that may be sent from.
struct Answers {
    socket: Fd,
    trains: Vec<(libc::msghdr, libc::iovec, [u64; CONTROL / 8])>,
}

impl Answers {
    fn new(socket: &Socket, buffers: usize) -> Self {
        // SAFETY: all-zero bytes are a valid msghdr.
        let header = unsafe { mem::zeroed() };
        let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let trains = vec![(header, vector, [0; CONTROL / 8]); buffers];
        Self { socket: Fd(socket.as_raw_fd()), trains }
    }

    /// The send of a buffer's payload to where it came from, a train as a train.
    fn entry(
        &mut self,
        buffer: u16,
        name: *mut u8,
        payload: *mut u8,
        length: usize,
        train: Option<usize>,
    ) -> squeue::Entry {
        let Some(stride) = train else {
            return opcode::Send::new(self.socket, payload, length as u32)
                .dest_addr(name.cast())
                .dest_addr_len(NAME as libc::socklen_t)
                .build()
                .user_data(u64::from(buffer));
        };
        let (header, vector, control) = &mut self.trains[usize::from(buffer)];
        *vector = libc::iovec { iov_base: payload.cast(), iov_len: length };
        header.msg_name = name.cast();
        header.msg_namelen = NAME as libc::socklen_t;
        header.msg_iov = vector;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        write_segment_size(header, stride);
        opcode::SendMsg::new(self.socket, header).build().user_data(u64::from(buffer))
    }
}
