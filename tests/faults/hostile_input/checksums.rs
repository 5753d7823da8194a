//! Datagrams with a wrong checksum. The kernel queues them and checks them when they are read. It
//! discards and counts them, and reports nothing.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;

use ebbtide::Drain;
use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide_testkit::report::assert_all_delivered;
use ebbtide_testkit::{Ledger, Shape, Watchdog, numbered, on_every_shape, turns};
use socket2::{Domain, Protocol, Socket, Type};

on_every_shape!(
    datagrams_with_a_wrong_checksum_harm_no_others,
    a_queue_of_nothing_but_wrong_checksums_is_empty,
);

/// The kernel checks payloads up to this length before it looks up the socket, which then never
/// sees them (`CHECKSUM_BREAK`, 76 bytes with the header).
const CHECKED_AT_ONCE: usize = 68;

/// Sends UDP datagrams that it builds byte by byte.
struct Forger {
    socket: Socket,
    to: SocketAddrV4,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Checksum {
    Right,
    Wrong,
}

impl Forger {
    /// Returns `None` and prints why, without the right to do so (`CAP_NET_RAW`).
    fn new(to: SocketAddr) -> Option<Self> {
        let SocketAddr::V4(to) = to else { panic!("only IPv4 is forged") };
        match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) {
            Ok(socket) => Some(Self { socket, to }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: raw sockets need CAP_NET_RAW: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn send(&self, payload: &[u8], checksum: Checksum) {
        let len = 8 + payload.len() as u16;
        let mut datagram = Vec::with_capacity(len.into());
        for field in [9, self.to.port(), len, 0] {
            datagram.extend(u16::to_be_bytes(field));
        }
        datagram.extend(payload);
        let mut sum = internet_checksum(*self.to.ip(), &datagram);
        if checksum == Checksum::Wrong {
            // Never 0, which means that there is no checksum.
            sum = if sum == 1 { 2 } else { 1 };
        }
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        let to = SocketAddrV4::new(*self.to.ip(), 0);
        assert_eq!(self.socket.send_to(&datagram, &to.into()).unwrap(), datagram.len());
    }
}

/// RFC 768. The source and the destination address are the same.
fn internet_checksum(address: Ipv4Addr, datagram: &[u8]) -> u16 {
    let [a, b, c, d] = address.octets();
    let pseudo = [a, b, c, d, a, b, c, d, 0, 17, 0, 0];
    let words = |bytes: &[u8]| {
        let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        bytes.chunks(2).map(word).sum::<u32>()
    };
    let mut sum = words(&pseudo) + datagram.len() as u32 + words(datagram);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xffff,
        sum => sum,
    }
}

/// Fails when a discarded datagram ends a receive or a drain.
fn datagrams_with_a_wrong_checksum_harm_no_others(shape: Shape) {
    let _watchdog = Watchdog::new("checksums");
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let runtime = shape.runtime();
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        let (mut right, mut wrong) = (0, 0);
        let forged = runtime.block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_recv_buffer_size(2 << 20).unwrap();
            let forger = Forger::new(socket.local_addr().unwrap())?;
            let received = Rc::clone(&ledger);
            ebbtide::spawn(async move {
                while let Some(datagram) = socket.recv().await.unwrap() {
                    received.borrow_mut().enter(&datagram);
                }
            });
            for _ in 0..200 {
                let payload = numbered(0, right, random.usize(12..=300));
                if random.usize(0..=1) == 0 {
                    forger.send(&payload, Checksum::Right);
                    right += 1;
                } else {
                    forger.send(&payload, Checksum::Wrong);
                    wrong += u64::from(payload.len() > CHECKED_AT_ONCE);
                }
                if random.usize(0..=7) == 0 {
                    yield_now().await;
                }
            }
            Some(())
        });
        let report = runtime.shutdown(Drain::default());
        if forged.is_none() {
            return;
        }
        let run = format!("{}, seed {seed}: {report}", shape.name);
        assert_all_delivered(&report);
        assert_eq!((ledger.borrow().received, ledger.borrow().holes), (right, 0), "{run}");
        // After the seal they are found as well, and count as refused.
        assert_eq!(report.stats.dropped_by_kernel + report.stats.refused, wrong, "{run}");
    }
}

fn a_queue_of_nothing_but_wrong_checksums_is_empty(shape: Shape) {
    let _watchdog = Watchdog::new("wrong checksums only");
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_recv_buffer_size(2 << 20).unwrap();
        let Some(forger) = Forger::new(socket.local_addr().unwrap()) else { return };
        for number in 0..3 {
            (0..200).for_each(|_| forger.send(&[7; 100], Checksum::Wrong));
            turns(5).await;
            assert_eq!(socket.try_recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            forger.send(&[number], Checksum::Right);
            assert_eq!(socket.recv().await.unwrap().unwrap()[..], [number]);
        }
        (0..200).for_each(|_| forger.send(&[7; 100], Checksum::Wrong));
        socket.drain().unwrap();
        assert!(socket.recv().await.unwrap().is_none());
        let stats = socket.stats();
        assert_eq!(stats.dropped_by_kernel + stats.refused, 800, "{stats:?}");
    });
}
