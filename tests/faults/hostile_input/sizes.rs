//! Datagrams of the maximum length, and datagrams that are longer than the buffer.

use std::cell::Cell;
use std::net::{SocketAddr, UdpSocket as Plain};
use std::rc::Rc;

use ebbtide::net::{Address, Datagram, DatagramSocket, UdpSocket, UnixAddr};
use ebbtide::task::yield_now;
use ebbtide::{Drain, Runtime};
use ebbtide_testkit::report::assert_all_delivered;
use ebbtide_testkit::{Shape, Transport, Watchdog, on_every_shape};
use socket2::Socket;

on_every_shape!(
    the_largest_datagrams_arrive_whole_among_the_smallest,
    what_is_longer_than_the_buffer_is_cut_and_harms_no_other,
    the_longest_datagrams_fill_a_buffer_to_its_end_and_no_further,
);

/// Bytes that differ at every position and in every datagram.
pub(crate) fn payload(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number as usize * 31 + at * 7 + at / 251) as u8).collect()
}

/// Sends datagrams of `len(number)` bytes, some of them through the drain, and checks each. The
/// receiver holds the last two, to check that nothing writes to them.
fn pass<A: Address + 'static>(
    runtime: Runtime,
    open: impl FnOnce() -> (Socket, DatagramSocket<A>),
    count: u64,
    window: u64,
    buffer: usize,
    len: impl Fn(u64) -> usize + Clone + 'static,
) {
    let received: Rc<Cell<u64>> = Rc::default();
    runtime.block_on(async {
        let (sender, socket) = open();
        let (taken, expected) = (Rc::clone(&received), len.clone());
        ebbtide::spawn(async move {
            let check = |number, datagram: &Datagram<A>| {
                let sent = payload(number, expected(number));
                assert_eq!(datagram[..], sent[..sent.len().min(buffer)], "datagram {number}");
                assert_eq!(datagram.original_len(), sent.len(), "datagram {number}");
                assert_eq!(datagram.is_truncated(), sent.len() > buffer, "datagram {number}");
            };
            let mut kept: Vec<(u64, Datagram<A>)> = Vec::new();
            while let Some(datagram) = socket.recv().await.unwrap() {
                check(taken.get(), &datagram);
                kept.iter().for_each(|(number, datagram)| check(*number, datagram));
                kept.truncate(1);
                kept.insert(0, (taken.get(), datagram));
                taken.set(taken.get() + 1);
            }
        });
        let mut waited = 0;
        for number in 0..count {
            while number - received.get() >= window {
                yield_now().await;
                waited += 1;
                assert!(waited < 1_000_000, "the socket receives nothing after {}", received.get());
            }
            let bytes = payload(number, len(number));
            assert_eq!(sender.send(&bytes).unwrap(), bytes.len());
        }
    });
    let report = runtime.shutdown(Drain::default());
    assert_all_delivered(&report);
    assert_eq!((received.get(), report.stats.dropped_by_kernel), (count, 0), "{report}");
}

fn udp(address: &str) -> (Socket, UdpSocket) {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_recv_buffer_size(4 << 20).unwrap();
    let sender = Plain::bind(address).unwrap();
    sender.connect(socket.local_addr().unwrap()).unwrap();
    (sender.into(), socket)
}

fn the_largest_datagrams_arrive_whole_among_the_smallest(shape: Shape) {
    let _watchdog = Watchdog::new("the largest datagrams");
    /// The maximum length, 0, 1, and one less than the maximum.
    fn len(largest: usize) -> impl Fn(u64) -> usize + Clone {
        move |number| match number % 5 {
            1 => 0,
            2 => 1,
            3 => largest - 1,
            _ => largest,
        }
    }
    const BUFFER: usize = 65_536;
    pass(shape.runtime(), || any(udp("127.0.0.1:0")), 500, 16, BUFFER, len(65_507));
    if Plain::bind("[::1]:0").is_ok() {
        pass(shape.runtime(), || any(udp("[::1]:0")), 500, 16, BUFFER, len(65_527));
    } else {
        println!("skipped: no IPv6");
    }
    let unix = || {
        let (sender, socket) = UnixAddr::pair();
        (sender, UnixAddr::open(socket))
    };
    pass(shape.runtime(), unix, 500, 16, BUFFER, len(BUFFER));
}

fn open<T: Transport>() -> (Socket, DatagramSocket<T>) {
    let (sender, socket) = T::pair();
    (sender, T::open(socket))
}

/// Fails when the length of a payload is not clamped to its buffer.
fn what_is_longer_than_the_buffer_is_cut_and_harms_no_other(shape: Shape) {
    let _watchdog = Watchdog::new("datagrams longer than the buffer");
    for size in [1, 2, 15, 16, 17, 100, 255, 256, 257, 1_000] {
        let len = move |number| fastrand::Rng::with_seed(number).usize(0..=3 * size);
        let runtime = || shape.builder().buffer_size(size).build().unwrap();
        pass(runtime(), open::<UnixAddr>, 300, 60, size, len);
        pass(runtime(), open::<SocketAddr>, 300, 60, size, len);
    }
}

/// Fails in debug builds when the kernel gets a length that is more than that of the buffer,
/// because it then overwrites the canary.
fn the_longest_datagrams_fill_a_buffer_to_its_end_and_no_further(shape: Shape) {
    let _watchdog = Watchdog::new("the longest datagrams");
    let small = || shape.builder().buffer_size(1_000).build().unwrap();
    pass(small(), open::<SocketAddr>, 50, 1, 1_000, |_| 65_507);
    pass(small(), open::<UnixAddr>, 50, 1, 1_000, |_| 150_000);
    pass(shape.runtime(), open::<UnixAddr>, 50, 1, 65_536, |_| 150_000);
}

fn any((sender, receiver): (Socket, UdpSocket)) -> (Socket, DatagramSocket<SocketAddr>) {
    (sender, receiver.into())
}
