//! Runs the same scripts on the real kernel and on the one in memory, and compares what they show.
//! This keeps the model true to the kernel. The real side is a raw ring of the `io-uring` crate,
//! and real sockets on loopback.
//!
//! Compared are the completions of each request in order (result, more or final, payload,
//! truncation), the results of direct reads, the errnos of sends, and the drop counter. Not
//! compared are the choice of buffers, the order of completions of different requests, which the
//! kernel does not promise, and how many datagrams one enter delivers. The model delivers fewer.

// UNSAFETY: entries and the ring of buffers name memory by its address.
#![cfg(all(ebbtide_model, not(miri)))]
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::thread;

use ebbtide_model::{Family, Rig, Version};
use ebbtide_testkit::socket::{arrivals, dropped};
use io_uring::types::{BufRingEntry, Fd, SubmitArgs};
use io_uring::{EnterFlags, IoUring, opcode, squeue};
use socket2::{Domain, SockAddr, SockFilter, Socket, Type};

const NAME: usize = 110;
const HEADER: usize = 16;
const BUFFER: usize = 512;
const GROUP: u16 = 0;
const CANCEL: u64 = 1 << 40;

/// One step of a script.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Sends a datagram of this length to the socket.
    Send(usize),
    /// Arms a receive, if none is in flight.
    Arm,
    /// Cancels the receive that was armed last.
    Cancel,
    /// Enters and takes completions until no more come.
    Enter,
    /// Returns the buffer that was taken first.
    Return,
    Seal,
    /// Reads directly, if no receive is in flight.
    Read,
    /// Makes an error pending (UDP).
    Fail,
}

/// An observation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Sent(i32),
    Completion { request: u64, outcome: Outcome, more: bool },
    Read(Result<Vec<u8>, i32>),
    Drops(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Datagram { payload: Vec<u8>, original: u32, truncated: bool },
    Result(i32),
}

/// A kernel that runs scripts.
trait Kernel {
    fn send(&mut self, payload: &[u8]) -> i32;
    fn fail(&mut self);
    fn descriptor(&self) -> BorrowedFd<'_>;
    fn push(&mut self, entry: &squeue::Entry);
    fn enter(&mut self);
    fn completions(&mut self) -> Vec<(u64, i32, u32)>;
    fn seal(&mut self);
    fn read(&mut self) -> io::Result<Vec<u8>>;
    fn drops(&self) -> u32;
}

/// A ring of buffers, and the buffers.
struct Buffers {
    ring: *mut BufRingEntry,
    layout: std::alloc::Layout,
    memory: Vec<u8>,
    entries: u16,
    tail: u16,
}

impl Buffers {
    fn new(count: u16) -> Self {
        let entries = count.next_power_of_two();
        let size = usize::from(entries) * size_of::<BufRingEntry>();
        let layout = std::alloc::Layout::from_size_align(size, 4096).unwrap();
        // SAFETY: the size is not zero.
        let ring = unsafe { std::alloc::alloc_zeroed(layout) }.cast();
        let memory = vec![0; BUFFER * usize::from(count)];
        let mut buffers = Self { ring, layout, memory, entries, tail: 0 };
        (0..count).for_each(|id| buffers.provide(id));
        buffers
    }

    fn provide(&mut self, id: u16) {
        let start = self.memory.as_mut_ptr().expose_provenance() + usize::from(id) * BUFFER;
        // SAFETY: the index is below the number of entries.
        let entry = unsafe { self.ring.add(usize::from(self.tail & (self.entries - 1))) };
        // SAFETY: the entry at the tail belongs to the program.
        let entry = unsafe { &mut *entry };
        entry.set_addr(start as u64);
        entry.set_len(BUFFER as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `ring` is the first entry.
        let tail = unsafe { BufRingEntry::tail(self.ring) };
        // SAFETY: aligned, and alive as long as the ring.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }

    fn address(&self) -> u64 {
        self.ring.expose_provenance() as u64
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout. The kernels are dropped before.
        unsafe { std::alloc::dealloc(self.ring.cast(), self.layout) };
    }
}

struct Real {
    ring: IoUring,
    family: Family,
    socket: Socket,
    sender: Socket,
    address: SockAddr,
}

impl Real {
    fn new(family: Family, completion: u32, buffers: &Buffers) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(completion)
            .build(16.min(completion))?;
        // SAFETY: the ring of buffers outlives this one.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buffers.address(),
                buffers.entries,
                GROUP,
                0,
            )?;
        }
        let domain = match family {
            Family::Internet => Domain::IPV4,
            Family::Unix => Domain::UNIX,
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), None)?;
        let sender = Socket::new(domain, Type::DGRAM.nonblocking(), None)?;
        let bound: SockAddr = match family {
            Family::Internet => free_address(),
            Family::Unix => {
                static COUNT: AtomicU64 = AtomicU64::new(0);
                let count = COUNT.fetch_add(1, Ordering::Relaxed);
                SockAddr::unix(format!("\0ebbtide-model-{}-{count}", std::process::id()))?
            }
        };
        socket.bind(&bound)?;
        let address = socket.local_addr()?;
        Ok(Self { ring, family, socket, sender, address })
    }
}

impl Real {
    /// Waits until what was sent has arrived (docs/kernel.md, K-CPU-4).
    fn settle(&self, before: [u32; 2]) {
        for _ in 0..MOST_LOOKS {
            if arrivals(&self.socket).unwrap() != before {
                return;
            }
            LATE.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
        }
        panic!("a datagram is neither queued nor dropped");
    }

    /// Waits until an error is pending.
    fn await_error(&self) {
        for _ in 0..MOST_LOOKS {
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: 0, revents: 0 };
            // SAFETY: one entry, which is alive.
            assert!(unsafe { libc::poll(&raw mut poll, 1, 0) } >= 0);
            if poll.revents & libc::POLLERR != 0 {
                return;
            }
            LATE.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
        }
        panic!("no answer comes from a port that is closed");
    }
}

/// Looks after which what was sent is taken to be lost.
const MOST_LOOKS: usize = 1_000_000;

/// How many looks were in vain.
static LATE: AtomicU64 = AtomicU64::new(0);

/// An address that is bound by its number. A port that the kernel has chosen is lost when the
/// socket is disconnected.
fn free_address() -> SockAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().into()
}

impl Kernel for Real {
    fn send(&mut self, payload: &[u8]) -> i32 {
        let before = arrivals(&self.socket).unwrap();
        match self.sender.send_to_with_flags(payload, &self.address, libc::MSG_NOSIGNAL) {
            Ok(_) => {
                // A Unix datagram is queued before the call returns.
                if self.family == Family::Internet {
                    self.settle(before);
                }
                0
            }
            Err(error) => error.raw_os_error().unwrap(),
        }
    }

    fn fail(&mut self) {
        // Sends a datagram to a closed port.
        let closed = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        closed.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        self.socket.connect(&address).unwrap();
        if self.socket.send(b"to nobody").is_err() {
            // The call returned an error that was pending before.
            self.socket.send(b"to nobody").unwrap();
        }
        self.await_error();
        // Receives from everybody again: connect(2), AF_UNSPEC.
        // SAFETY: an all-zero address is valid, and has the family AF_UNSPEC.
        let unspecified: libc::sockaddr = unsafe { std::mem::zeroed() };
        let len = size_of::<libc::sockaddr>() as u32;
        // SAFETY: the pointer and the length name `unspecified`.
        let result = unsafe { libc::connect(self.socket.as_raw_fd(), &raw const unspecified, len) };
        assert_eq!(result, 0);
        let local = self.socket.local_addr().unwrap();
        assert_eq!(local.as_socket().unwrap().port(), self.address.as_socket().unwrap().port());
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what it names outlives the ring.
        unsafe { self.ring.submission().push(entry) }.unwrap();
    }

    fn enter(&mut self) {
        let queued = self.ring.submission().len() as u32;
        let arguments = SubmitArgs::new();
        let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
        // SAFETY: the argument is of the type that the flags announce.
        unsafe { self.ring.submitter().enter(queued, 0, flags, Some(&arguments)) }.unwrap();
    }

    fn completions(&mut self) -> Vec<(u64, i32, u32)> {
        let completions = self.ring.completion();
        completions.map(|entry| (entry.user_data(), entry.result(), entry.flags())).collect()
    }

    fn seal(&mut self) {
        match self.family {
            Family::Internet => {
                let code = (libc::BPF_RET | libc::BPF_K) as u16;
                self.socket.attach_filter(&[SockFilter::new(code, 0, 0, 0)]).unwrap();
            }
            Family::Unix => self.socket.shutdown(std::net::Shutdown::Read).unwrap(),
        }
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut memory = [std::mem::MaybeUninit::uninit(); 4096];
        let len = self.socket.recv_with_flags(&mut memory, libc::MSG_DONTWAIT)?;
        // SAFETY: that many bytes were received.
        Ok(memory[..len].iter().map(|byte| unsafe { byte.assume_init() }).collect())
    }

    fn drops(&self) -> u32 {
        dropped(&self.socket).unwrap()
    }
}

struct Model {
    rig: Rig,
    family: Family,
}

impl Kernel for Model {
    fn send(&mut self, payload: &[u8]) -> i32 {
        self.rig.send(payload)
    }

    fn fail(&mut self) {
        self.rig.fail(libc::ECONNREFUSED);
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.rig.descriptor()
    }

    fn push(&mut self, entry: &squeue::Entry) {
        assert!(self.rig.push(entry));
    }

    fn enter(&mut self) {
        self.rig.enter().unwrap();
    }

    fn completions(&mut self) -> Vec<(u64, i32, u32)> {
        self.rig.completions()
    }

    fn seal(&mut self) {
        self.rig.seal(self.family).unwrap();
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.rig.read()
    }

    fn drops(&self) -> u32 {
        self.rig.drops()
    }
}

/// Runs a script and returns the observations. They are sorted so that only the promised order
/// counts.
fn play(
    script: &[Step],
    family: Family,
    kernel: &mut dyn Kernel,
    buffers: &mut Buffers,
) -> Vec<Seen> {
    let template = Box::new(libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: NAME as u32,
        msg_iov: ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    });
    let mut seen = Vec::new();
    let mut taken: Vec<u16> = Vec::new();
    let (mut next, mut armed, mut number) = (1, None, 0u8);
    let mut is_sealed = false;
    // At the end everything is ended, so that nothing names the msghdr any more.
    let end = [Step::Cancel, Step::Enter, Step::Enter];
    for step in script.iter().chain(&end) {
        match *step {
            Step::Send(len) => {
                number = number.wrapping_add(1);
                seen.push(Seen::Sent(kernel.send(&vec![number; len])));
            }
            // A connected socket treats the seal differently, and Unix has no such errors.
            Step::Fail if family == Family::Internet && !is_sealed => kernel.fail(),
            Step::Arm if armed.is_none() => {
                let socket = Fd(kernel.descriptor().as_raw_fd());
                let entry = opcode::RecvMsgMulti::new(socket, &raw const *template, GROUP)
                    .flags(libc::MSG_TRUNC as u32)
                    .build();
                kernel.push(&entry.user_data(next));
                armed = Some(next);
                next += 1;
            }
            Step::Cancel => {
                if let Some(request) = armed {
                    let entry = opcode::AsyncCancel::new(request).build();
                    kernel.push(&entry.user_data(CANCEL + request));
                }
            }
            Step::Enter => {
                let mut batch = Vec::new();
                let mut quiet = 0;
                for _ in 0..200 {
                    kernel.enter();
                    let completions = kernel.completions();
                    quiet = if completions.is_empty() { quiet + 1 } else { 0 };
                    for (request, result, flags) in completions {
                        let more = flags & 2 != 0;
                        if !more && armed == Some(request) {
                            armed = None;
                        }
                        let outcome = if flags & 1 != 0 {
                            let id = (flags >> 16) as u16;
                            taken.push(id);
                            datagram(&buffers.memory[usize::from(id) * BUFFER..][..BUFFER], result)
                        } else {
                            Outcome::Result(result)
                        };
                        batch.push(Seen::Completion { request, outcome, more });
                    }
                    if quiet == 2 {
                        break;
                    }
                }
                // The sort is stable, so the order within a request stays.
                batch.sort_by_key(|seen| match seen {
                    Seen::Completion { request, .. } => *request,
                    _ => 0,
                });
                seen.extend(batch);
            }
            Step::Return => {
                if !taken.is_empty() {
                    buffers.provide(taken.remove(0));
                }
            }
            Step::Seal => {
                is_sealed = true;
                kernel.seal();
            }
            Step::Read if armed.is_none() => {
                let read = kernel.read().map_err(|error| error.raw_os_error().unwrap());
                seen.push(Seen::Read(read));
            }
            Step::Arm | Step::Read | Step::Fail => {}
        }
    }
    seen.push(Seen::Drops(kernel.drops()));
    seen
}

/// Reads a buffer: the header, and the payload after the space for the address.
fn datagram(bytes: &[u8], result: i32) -> Outcome {
    let field = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let payload = bytes[HEADER + NAME..result as usize].to_vec();
    let truncated = field(12) & libc::MSG_TRUNC as u32 != 0;
    Outcome::Datagram { payload, original: field(8), truncated }
}

fn random_script(random: &mut fastrand::Rng) -> Vec<Step> {
    let len = random.usize(3..40);
    let step = |random: &mut fastrand::Rng| match random.usize(..20) {
        0..8 => Step::Send(*random.choice([0, 1, 1, 7, 100, 386, 387, 600].iter()).unwrap()),
        8..11 => Step::Arm,
        11 => Step::Cancel,
        12..15 => Step::Enter,
        15..17 => Step::Return,
        17 if random.u8(..4) == 0 => Step::Seal,
        17 | 18 => Step::Read,
        _ => Step::Fail,
    };
    let mut script = Vec::new();
    for _ in 0..len {
        let step = step(random);
        let times = if matches!(step, Step::Send(_)) && random.u8(..8) == 0 { 40 } else { 1 };
        script.extend(std::iter::repeat_n(step, times));
    }
    script
}

/// The number of scripts.
const SCRIPTS: u64 = 2_000;

/// Fails with the seed, the script and both sequences if they differ.
#[test]
fn the_model_shows_what_the_kernel_shows() {
    let probe: io::Result<IoUring> =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(2);
    if let Err(error) = probe {
        println!("skipped: io_uring is not available ({error})");
        return;
    }
    let version = Version::running().unwrap();
    let mut tally = Tally::default();
    for seed in 0..SCRIPTS {
        let mut random = fastrand::Rng::with_seed(seed);
        let family = if random.bool() { Family::Internet } else { Family::Unix };
        let count = *random.choice([1, 2, 5, 64].iter()).unwrap();
        let completion = *random.choice([16, 16, 64, 256].iter()).unwrap();
        let mut script = random_script(&mut random);
        // A real queue is finite: `net.unix.max_dgram_qlen`, which is 10 by default, or the receive
        // buffer, of which a small datagram takes more than a kilobyte.
        let most = if family == Family::Unix { 10 } else { 120 };
        let mut sent = 0;
        script.retain(|step| {
            sent += usize::from(matches!(step, Step::Send(_)));
            sent <= most || !matches!(step, Step::Send(_))
        });
        let mut real_buffers = Buffers::new(count);
        let mut real = Real::new(family, completion, &real_buffers).unwrap();
        let expected = play(&script, family, &mut real, &mut real_buffers);
        drop(real);

        let mut buffers = Buffers::new(count);
        let mut rig =
            Rig::new(version, family, 16.min(completion as usize), completion as usize).unwrap();
        rig.register(buffers.address(), buffers.entries);
        let mut model = Model { rig, family };
        let shown = play(&script, family, &mut model, &mut buffers);
        assert_eq!(model.rig.violation(), None, "seed {seed}: {script:?}");
        let at = shown.iter().zip(&expected).position(|(shown, expected)| shown != expected);
        assert!(
            shown == expected,
            "seed {seed}, {family:?}, {count} buffers, completions {completion}: {script:?}\n\
             first difference at {at:?}\nkernel {:?}\nmodel  {:?}",
            around(&expected, at),
            around(&shown, at),
        );
        expected.iter().for_each(|seen| tally.count(seen));
    }
    println!("{SCRIPTS} scripts: {:?}", tally.0);
    println!("{} looks before a datagram or an answer had come", LATE.load(Ordering::Relaxed));
    assert!(tally.0.iter().all(|(_, count)| *count > 0), "never seen: {:?}", tally.0);
}

/// What was seen around a difference.
fn around(seen: &[Seen], at: Option<usize>) -> &[Seen] {
    let start = at.unwrap_or(0).saturating_sub(2).min(seen.len());
    &seen[start..seen.len().min(start + 6)]
}

/// Counts the kernel's observations, so that scripts that show nothing do not count as agreement.
struct Tally([(&'static str, u64); 11]);

impl Default for Tally {
    fn default() -> Self {
        Self([
            ("delivered, and more to come", 0),
            ("delivered last: the completion queue was full", 0),
            ("delivered last: it is empty", 0),
            ("truncated", 0),
            ("ENOBUFS", 0),
            ("ECANCELED", 0),
            ("ECONNREFUSED", 0),
            ("read directly", 0),
            ("EAGAIN of a direct read", 0),
            ("EPIPE of a send", 0),
            ("refused", 0),
        ])
    }
}

impl Tally {
    fn count(&mut self, seen: &Seen) {
        let mut add = |at: usize| self.0[at].1 += 1;
        match seen {
            Seen::Completion {
                outcome: Outcome::Datagram { original, truncated, .. },
                more,
                ..
            } => {
                match (more, original) {
                    (true, _) => add(0),
                    (false, 1..) => add(1),
                    (false, 0) => add(2),
                }
                if *truncated {
                    add(3);
                }
            }
            Seen::Completion { outcome: Outcome::Result(result), .. } => match -result {
                libc::ENOBUFS => add(4),
                libc::ECANCELED => add(5),
                libc::ECONNREFUSED => add(6),
                _ => {}
            },
            Seen::Read(Ok(_)) => add(7),
            Seen::Read(Err(libc::EAGAIN)) => add(8),
            Seen::Sent(libc::EPIPE) => add(9),
            Seen::Drops(1..) => add(10),
            _ => {}
        }
    }
}
