//! The addresses can be bound again. The tests run in processes of their own: a process that another
//! test starts has copies of the sockets until its exec.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};

use ebbtide::Drain;
use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::{Shape, unique_name};

/// An address that stays in use for a moment longer is found in the first few rounds.
const ROUNDS: u32 = 100;

/// Fails when `shutdown` returns while a receive still holds its socket, because neither the drain,
/// nor dropping the socket, nor the end of the runtime cancels it.
#[test]
fn an_address_can_be_bound_again_after_a_shutdown() {
    in_a_child(|| Shape::ALL.into_iter().for_each(shut_down_and_bind_again));
}

fn shut_down_and_bind_again(shape: Shape) {
    let name = unique_name("again");
    let mut address = lonely_address();
    for round in 0..ROUNDS {
        let runtime = shape.runtime();
        runtime.block_on(async {
            let udp = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{round}: {error}"));
            let unix =
                UnixDatagram::bind_addr(&name).unwrap_or_else(|error| panic!("{round}: {error}"));
            address = udp.local_addr().unwrap();
            udp.send_to(b"udp", address).await.unwrap();
            assert_eq!(&udp.recv().await.unwrap().expect("not drained")[..], b"udp");
            UnixDatagram::unbound().unwrap().send_to_addr(b"unix", &name).await.unwrap();
            assert_eq!(&unix.recv().await.unwrap().expect("not drained")[..], b"unix");
            // They are still open, with their receives in flight, when the runtime ends.
            ebbtide::spawn(async move {
                let _open = (udp, unix);
                std::future::pending::<()>().await;
            });
        });
        runtime.shutdown(Drain::default());
    }
}

/// Fails when dropping a socket leaves its receive in flight, which keeps the address.
#[test]
fn an_address_can_be_bound_again_after_its_socket_was_dropped() {
    in_a_child(|| Shape::ALL.into_iter().for_each(drop_and_bind_again));
}

fn drop_and_bind_again(shape: Shape) {
    let name = unique_name("at-once");
    let mut address = lonely_address();
    let runtime = shape.runtime();
    runtime.block_on(async {
        for round in 0..ROUNDS {
            let udp = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{round}: {error}"));
            let unix =
                UnixDatagram::bind_addr(&name).unwrap_or_else(|error| panic!("{round}: {error}"));
            address = udp.local_addr().unwrap();
            if round % 2 == 0 {
                yield_now().await; // From here on the receives are in flight.
            }
            drop((udp, unix));
        }
    });
}

/// An address on a separate loopback host, so that no other test can get its port.
fn lonely_address() -> SocketAddr {
    static HOSTS: AtomicU8 = AtomicU8::new(2);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    SocketAddr::from(([127, high | 1, low, HOSTS.fetch_add(1, Ordering::Relaxed)], 0))
}
