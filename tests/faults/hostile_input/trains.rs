//! Trains: datagrams that a peer sends as one (UDP GSO) and that the kernel receives as one (GRO),
//! of every size and count that it accepts.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::UdpSocket as Plain;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::{Datagram, UdpOptions, UdpSocket};
use ebbtide::task::yield_now;
use ebbtide::{Drain, Runtime};
use ebbtide_testkit::report::assert_all_delivered;
use ebbtide_testkit::socket::{send_with, switch_on};
use ebbtide_testkit::{Shape, Watchdog, on_every_shape};
use socket2::Socket;

use super::sizes::payload;

on_every_shape!(
    every_datagram_of_random_trains_arrives_once_and_in_order,
    trains_longer_than_the_pool_arrive_whole,
    trains_to_buffers_that_hold_none_arrive_as_datagrams,
    trains_are_told_apart_whatever_else_comes_with_them,
);

/// How many datagrams the kernel accepts in one send (`UDP_MAX_SEGMENTS`, 64 before Linux 6.9).
const MOST_SEGMENTS: usize = 64;
/// The maximum length of a send over IPv4.
const MOST_BYTES: usize = 65_507;

/// The number of trains in transit. The receive buffer holds this many.
const WINDOW: usize = 16;

/// How many datagrams a receiver holds. The smallest pool of all shapes has more buffers.
const KEPT: usize = 3;

/// Sends trains, and records what must arrive.
struct Trains {
    sender: Socket,
    expected: Rc<RefCell<VecDeque<Vec<u8>>>>,
    /// How many datagrams were sent so far.
    sent: Cell<u64>,
    /// True once the kernel has refused to segment. From then on datagrams are sent one by one.
    alone: Cell<bool>,
}

impl Trains {
    fn to(socket: &UdpSocket) -> Self {
        let sender = Plain::bind("127.0.0.1:0").unwrap();
        sender.connect(socket.local_addr().unwrap()).unwrap();
        Self {
            sender: sender.into(),
            expected: Rc::default(),
            sent: Cell::new(0),
            alone: Cell::new(false),
        }
    }

    /// Sends a train of `count` datagrams of `size` bytes, the last of `last` bytes.
    fn send(&self, count: usize, size: usize, last: usize) {
        let len = |index| if index + 1 == count { last } else { size };
        let datagrams: Vec<Vec<u8>> =
            (0..count).map(|index| payload(self.sent.get() + index as u64, len(index))).collect();
        if !self.alone.get() {
            let size = u16::try_from(size).expect("a datagram is not longer");
            let level = (libc::SOL_UDP, libc::UDP_SEGMENT);
            let sent = send_with(&self.sender, &datagrams.concat(), level, &size.to_ne_bytes());
            self.alone.set(sent.is_err_and(|error| error.raw_os_error() == Some(libc::EIO)));
        }
        if self.alone.get() {
            datagrams.iter().for_each(|it| assert_eq!(self.sender.send(it).unwrap(), it.len()));
        }
        self.sent.set(self.sent.get() + count as u64);
        self.expected.borrow_mut().extend(datagrams);
    }

    fn send_random(&self, random: &mut fastrand::Rng) {
        let size = match random.usize(0..=3) {
            0 => random.usize(1..=20),
            1 => random.usize(1..=600),
            _ => random.usize(1..=1_472),
        };
        let count = random.usize(1..=MOST_SEGMENTS.min(MOST_BYTES / size));
        self.send(
            count,
            size,
            if random.usize(0..=1) == 0 { size } else { random.usize(1..=size) },
        );
    }

    /// Receives until the end, and holds up to `keep` datagrams for a while. Each may hold a
    /// buffer, and the pool has more.
    fn spawn_receiver(&self, socket: UdpSocket, keep: usize) {
        let expected = Rc::clone(&self.expected);
        ebbtide::spawn(async move {
            let mut kept: VecDeque<(Vec<u8>, Datagram)> = VecDeque::new();
            let mut number = 0;
            while let Some(datagram) = socket.recv().await.unwrap() {
                let bytes = expected.borrow_mut().pop_front().expect("the datagram was sent");
                assert_eq!((number, &datagram[..]), (number, &bytes[..]));
                assert_eq!(datagram.original_len(), bytes.len(), "datagram {number}");
                assert!(!datagram.is_truncated(), "datagram {number}");
                number += 1;
                kept.push_back((bytes, datagram));
                if kept.len() > keep {
                    kept.drain(..).for_each(|(bytes, datagram)| assert_eq!(bytes, datagram[..]));
                }
            }
        });
    }

    /// Lets the receiver run until few trains are in transit.
    async fn make_room(&self) {
        for _ in 0..1_000_000 {
            if self.expected.borrow().len() <= WINDOW * MOST_SEGMENTS / 4 {
                return;
            }
            yield_now().await;
        }
        panic!(
            "the socket receives nothing: {} datagrams are expected",
            self.expected.borrow().len()
        );
    }
}

fn bind(options: &UdpOptions) -> UdpSocket {
    options.clone().recv_buffer_size(4 << 20).bind("127.0.0.1:0").unwrap()
}

/// Sends random trains, with single and empty datagrams between them. What is in transit at the end
/// is drained.
fn pass(runtime: Runtime, seed: u64, keep: usize, rounds: usize, open: impl FnOnce() -> UdpSocket) {
    let mut random = fastrand::Rng::with_seed(seed);
    let trains = runtime.block_on(async {
        let socket = open();
        let trains = Trains::to(&socket);
        trains.spawn_receiver(socket, keep);
        for _ in 0..rounds {
            trains.make_room().await;
            match random.usize(0..=5) {
                0 => trains.send(1, 1 + random.usize(0..=3_000), 0),
                _ => trains.send_random(&mut random),
            }
        }
        trains
    });
    let report = runtime.shutdown(Drain::default());
    assert_all_delivered(&report);
    let run = format!("seed {seed}: {report}");
    assert_eq!((trains.sent.get(), trains.expected.borrow().len()), (report.stats.delivered, 0));
    assert_eq!((report.stats.dropped_by_kernel, report.stats.refused), (0, 0), "{run}");
    assert_eq!(report.stats.truncated, 0, "{run}");
}

/// Fails when a train is split at the wrong places.
fn every_datagram_of_random_trains_arrives_once_and_in_order(shape: Shape) {
    let _watchdog = Watchdog::new("random trains");
    for seed in 0..5 {
        pass(shape.runtime(), seed, KEPT, 60, || bind(&UdpSocket::options()));
    }
}

/// With pools of one and of two buffers, every train has more datagrams than there are buffers.
fn trains_longer_than_the_pool_arrive_whole(shape: Shape) {
    let _watchdog = Watchdog::new("a pool of one buffer");
    for buffers in [1, 2] {
        let runtime = shape.builder().buffers(buffers).build().unwrap();
        pass(runtime, 1, buffers - 1, 60, || bind(&UdpSocket::options()));
    }
}

/// Fails when GRO is on although a train does not fit into a buffer.
fn trains_to_buffers_that_hold_none_arrive_as_datagrams(shape: Shape) {
    let _watchdog = Watchdog::new("small buffers");
    for size in [3_001, 65_526] {
        let runtime = shape.builder().buffer_size(size).build().unwrap();
        pass(runtime, 2, KEPT, 60, || {
            let socket = bind(&UdpSocket::options());
            let error = socket.set_gro(true).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
            socket
        });
    }
}

/// Fails when the control message of another option takes the space of the segment size. The option
/// was set on the socket, or through its descriptor.
fn trains_are_told_apart_whatever_else_comes_with_them(shape: Shape) {
    let _watchdog = Watchdog::new("trains with metadata");
    let options = UdpSocket::options();
    let asked = [
        options.clone(),
        options.clone().recv_timestamp(true).recv_drop_count(true),
        options.recv_ecn(true).recv_dst_ip(true).recv_timestamp(true).recv_drop_count(true),
    ];
    for options in &asked {
        pass(shape.runtime(), 3, KEPT, 30, || bind(options));
        pass(shape.runtime(), 3, KEPT, 30, || {
            let socket = bind(options);
            for option in [libc::SO_TIMESTAMPNS, libc::SO_RXQ_OVFL] {
                switch_on(&socket, libc::SOL_SOCKET, option);
            }
            for option in [libc::IP_PKTINFO, libc::IP_RECVTOS, libc::IP_RECVTTL] {
                switch_on(&socket, libc::IPPROTO_IP, option);
            }
            socket
        });
    }
}

/// Every size of segments up to that of an Ethernet frame. The counts are few, some, and as many as
/// possible. The last segment has the minimum, a random, or the maximum length.
#[test]
#[ignore = "the long form: every size of segments"]
fn every_datagram_of_trains_of_every_size_arrives_once_and_in_order() {
    let _watchdog = Watchdog::with_patience("trains of every size", Duration::from_secs(1_200));
    for shape in Shape::ALL {
        let runtime = shape.runtime();
        let mut random = fastrand::Rng::with_seed(9);
        let trains = runtime.block_on(async {
            let socket = bind(&UdpSocket::options());
            assert!(socket.gro());
            let trains = Trains::to(&socket);
            trains.spawn_receiver(socket, KEPT);
            for size in 1..=1_472 {
                let most = MOST_SEGMENTS.min(MOST_BYTES / size);
                for count in [1, 2, 3, random.usize(2..=most), most - 1, most] {
                    for last in [1, random.usize(1..=size), size] {
                        trains.make_room().await;
                        trains.send(count, size, last);
                    }
                }
            }
            trains
        });
        let report = runtime.shutdown(Drain::default());
        assert_all_delivered(&report);
        assert_eq!(trains.expected.borrow().len(), 0, "{report}");
        assert_eq!(report.stats.delivered, trains.sent.get(), "{report}");
        println!(
            "{}: {} datagrams in trains of 1 to 1 472 bytes each",
            shape.name, report.stats.delivered
        );
    }
}

/// A socket whose GRO was on before it was adopted, as the receiver sees it.
#[test]
fn a_socket_with_trains_in_its_queue_is_taken_over_whole() {
    let _watchdog = Watchdog::new("an adopted socket");
    for shape in Shape::ALL {
        let runtime = shape.runtime();
        let plain = Plain::bind("127.0.0.1:0").unwrap();
        switch_on(&plain, libc::SOL_UDP, libc::UDP_GRO);
        switch_on(&plain, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS);
        let expected = runtime.block_on(async {
            let sender = Plain::bind("127.0.0.1:0").unwrap();
            sender.connect(plain.local_addr().unwrap()).unwrap();
            let trains = Trains {
                sender: sender.into(),
                expected: Rc::default(),
                sent: Cell::new(0),
                alone: Cell::new(false),
            };
            (1..=20).for_each(|count| trains.send(count, 100, 7));
            trains.spawn_receiver(UdpSocket::from_std(plain).unwrap(), KEPT);
            trains.expected
        });
        assert_all_delivered(&runtime.shutdown(Drain::default()));
        assert_eq!(expected.borrow().len(), 0, "{}", shape.name);
    }
}
