//! What the integration tests share: ring shapes, numbered datagrams and their ledger, and a look
//! into a socket's queue from outside.

#![allow(dead_code, reason = "every test binary uses a part of it")]
#![allow(unreachable_pub, reason = "it is a module of each test binary")]
#![allow(unused_macros, reason = "every test binary uses a part of it")]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use ebbtide::net::{Address, DatagramSocket, UnixAddr};
use ebbtide::{Builder, Driver, RunningDriver, Runtime};
use socket2::{Domain, Socket, Type};

/// A driver and the sizes of its queues. Every conformance test runs on every shape.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    driver: Driver,
    submission_entries: Option<usize>,
    completion_entries: Option<usize>,
    buffers: Option<usize>,
}

impl Shape {
    /// A ring wherever there is one; where io_uring is refused, all shapes run on epoll.
    pub const DEFAULT: Self = Self {
        name: "default ring",
        driver: Driver::Auto,
        submission_entries: None,
        completion_entries: None,
        buffers: None,
    };

    /// Every second push finds the submission queue full.
    pub const TWO_ENTRIES: Self =
        Self { name: "ring of 2 entries", submission_entries: Some(2), ..Self::DEFAULT };

    /// The completion queue overflows, and the pool runs empty, all the time.
    pub const TINY: Self = Self {
        name: "completion queue of 8, pool of 4",
        driver: Driver::Auto,
        submission_entries: Some(8),
        completion_entries: Some(8),
        buffers: Some(4),
    };

    pub const EPOLL: Self = Self { name: "epoll", driver: Driver::Epoll, ..Self::DEFAULT };

    pub const ALL: [Self; 4] = [Self::DEFAULT, Self::TWO_ENTRIES, Self::TINY, Self::EPOLL];

    pub fn builder(self) -> Builder {
        let mut builder = Runtime::builder().driver(self.driver);
        if let Some(entries) = self.submission_entries {
            builder = builder.submission_entries(entries);
        }
        if let Some(entries) = self.completion_entries {
            builder = builder.completion_entries(entries);
        }
        if let Some(count) = self.buffers {
            builder = builder.buffers(count);
        }
        builder
    }

    pub fn runtime(self) -> Runtime {
        self.builder().build().unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Whether it comes out as a ring here.
    pub fn has_ring(self) -> bool {
        matches!(self.runtime().driver(), RunningDriver::IoUring { .. })
    }
}

/// Makes a `#[test]` on every shape of each scenario, a `fn(Shape)` of the module that uses it.
macro_rules! on_every_shape {
    ($($scenario:ident),+ $(,)?) => {
        mod default_ring {
            $(#[test] fn $scenario() { super::$scenario($crate::support::Shape::DEFAULT); })+
        }
        mod ring_of_two_entries {
            $(#[test] fn $scenario() { super::$scenario($crate::support::Shape::TWO_ENTRIES); })+
        }
        mod tiny_queues_and_pool {
            $(#[test] fn $scenario() { super::$scenario($crate::support::Shape::TINY); })+
        }
        mod epoll {
            $(#[test] fn $scenario() { super::$scenario($crate::support::Shape::EPOLL); })+
        }
    };
}

/// Fails unless both failed, with the same errno and the same kind.
#[track_caller]
pub fn assert_same_error(call: &str, ours: io::Result<()>, std: io::Result<()>) {
    let (ours, std) = (ours.expect_err(call), std.expect_err(call));
    let errnos = (ours.raw_os_error(), std.raw_os_error());
    assert_eq!(errnos.0, errnos.1, "{call}: {ours}; std: {std}");
    assert_eq!(ours.kind(), std.kind(), "{call}: {ours}; std: {std}");
}

/// A datagram of at least 12 bytes that says who sent it and which of that sender's it is.
pub fn numbered(sender: u32, number: u64, len: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(len.max(12));
    payload.extend(sender.to_le_bytes());
    payload.extend(number.to_le_bytes());
    payload.resize(len.max(12), number as u8);
    payload
}

/// Reads what `numbered` wrote, and checks that the rest is as it was sent.
pub fn parse(payload: &[u8]) -> (u32, u64) {
    let sender = u32::from_le_bytes(payload[..4].try_into().expect("4 bytes"));
    let number = u64::from_le_bytes(payload[4..12].try_into().expect("8 bytes"));
    assert!(payload[12..].iter().all(|&byte| byte == number as u8), "the payload is damaged");
    (sender, number)
}

/// What each sender's datagrams should look like at the receiver: once, in order, no holes.
#[derive(Debug, Default)]
pub struct Ledger {
    next: HashMap<u32, u64>,
    /// Numbers that were passed over.
    pub holes: u64,
    pub received: u64,
}

impl Ledger {
    /// Enters a datagram; a number that was seen already, or comes too late, fails the test.
    pub fn enter(&mut self, payload: &[u8]) {
        let (sender, number) = parse(payload);
        let next = self.next.entry(sender).or_insert(0);
        assert!(
            number >= *next,
            "datagram {number} of sender {sender} came twice or out of order (next: {next})"
        );
        self.holes += number - *next;
        *next = number + 1;
        self.received += 1;
    }

    /// How many of a sender's datagrams there were up to the last one received.
    pub fn seen(&self, sender: u32) -> u64 {
        self.next.get(&sender).copied().unwrap_or(0)
    }
}

/// A second descriptor of the same socket, which outlives the first: to look into its queue.
pub fn duplicate(socket: &impl AsFd) -> Socket {
    Socket::from(socket.as_fd().try_clone_to_owned().expect("a descriptor is left"))
}

/// How many datagrams are left in the kernel's queue. Takes them.
pub fn left_in_queue(socket: &Socket) -> usize {
    let mut memory = [std::mem::MaybeUninit::uninit(); 64];
    let mut count = 0;
    loop {
        match socket.recv_with_flags(&mut memory, libc::MSG_DONTWAIT) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return count,
            Err(_pending_error_of_the_socket) => {}
        }
    }
}

/// Numbers that look random and are the same for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number of `range`.
    pub fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + (self.next() % (range.end() - range.start() + 1) as u64) as usize
    }
}

/// An abstract Unix name that no other test uses.
pub fn unique_name(what: &str) -> ebbtide::net::UnixAddr {
    use std::os::linux::net::SocketAddrExt;
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ebbtide-test-{what}-{}-{count}", std::process::id());
    ebbtide::net::UnixAddr::from_abstract_name(name).expect("the name is short")
}

/// What differs between Unix and UDP.
pub trait Transport: Address + 'static {
    /// Whether the kernel drops what there is no room for.
    const MAY_DROP: bool;

    /// A sender and a receiver, with room for 1 000 small datagrams where the system allows it.
    fn pair() -> (Socket, Socket);

    fn open(socket: Socket) -> DatagramSocket<Self>;
}

const ROOM: usize = 2 << 20;

impl Transport for UnixAddr {
    const MAY_DROP: bool = false;

    fn pair() -> (Socket, Socket) {
        // What a pair has queued is bounded by the send buffer alone, not by max_dgram_qlen.
        let (sender, receiver) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
        sender.set_send_buffer_size(ROOM).unwrap();
        (sender, receiver)
    }

    fn open(socket: Socket) -> DatagramSocket<Self> {
        DatagramSocket::<Self>::from_std(socket.into()).unwrap()
    }
}

impl Transport for SocketAddr {
    const MAY_DROP: bool = true;

    fn pair() -> (Socket, Socket) {
        let bind = || Socket::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let (sender, receiver) = (bind(), bind());
        sender.connect(&receiver.local_addr().unwrap()).unwrap();
        receiver.set_recv_buffer_size(ROOM).unwrap();
        (sender, receiver)
    }

    fn open(socket: Socket) -> DatagramSocket<Self> {
        DatagramSocket::<Self>::from_std(socket.into()).unwrap()
    }
}
