//! Millions of empty datagrams. Each ends a multishot receive, and looks like the end of a stream.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::Drain;
use ebbtide::net::{DatagramSocket, UnixAddr};
use ebbtide::task::yield_now;
use ebbtide_testkit::report::assert_all_delivered;
use ebbtide_testkit::{Shape, Transport, Watchdog, numbered, on_every_shape};

on_every_shape!(a_flood_of_empty_datagrams_arrives_to_the_last);

/// The number of datagrams in transit. Any queue holds more.
const WINDOW: u64 = 100;

/// One datagram in this many has a payload, which shows that none is missing before it.
const MARKED: u64 = 64;

/// Fails when a receive that an empty datagram has ended is not armed again, or when a drain stops
/// reading at one: the last hundred are queued when the runtime ends.
fn a_flood_of_empty_datagrams_arrives_to_the_last(shape: Shape) {
    let _watchdog = Watchdog::new("empty datagrams");
    flood::<UnixAddr>(shape, 20_000);
    flood::<SocketAddr>(shape, 20_000);
}

#[test]
#[ignore = "the long form: a million on each"]
fn a_million_empty_datagrams_arrive_to_the_last() {
    let _watchdog = Watchdog::with_patience("a million", Duration::from_secs(1_200));
    for shape in Shape::ALL {
        flood::<UnixAddr>(shape, 1_000_000);
        flood::<SocketAddr>(shape, 1_000_000);
        println!("{}: 1 000 000 empty datagrams, Unix and UDP", shape.name);
    }
}

fn flood<T: Transport>(shape: Shape, count: u64) {
    let runtime = shape.runtime();
    let received: Rc<Cell<u64>> = Rc::default();
    runtime.block_on(async {
        let (sender, socket) = T::pair();
        ebbtide::spawn(receive(T::open(socket), Rc::clone(&received)));
        let mut waited = 0;
        for number in 0..count {
            while number - received.get() >= WINDOW {
                yield_now().await;
                waited += 1;
                assert!(
                    waited < 100 * count,
                    "the socket receives nothing after {}",
                    received.get()
                );
            }
            sender.send(&payload(number)).unwrap();
        }
    });
    let report = runtime.shutdown(Drain::default());
    assert_all_delivered(&report);
    assert_eq!((received.get(), report.stats.delivered), (count, count), "{}", shape.name);
}

fn payload(number: u64) -> Vec<u8> {
    if number.is_multiple_of(MARKED) { numbered(0, number, 12) } else { Vec::new() }
}

async fn receive<T: Transport>(socket: DatagramSocket<T>, received: Rc<Cell<u64>>) {
    while let Some(datagram) = socket.recv().await.unwrap() {
        assert_eq!(datagram[..], payload(received.get()));
        received.set(received.get() + 1);
    }
}
