//! Offloads: trains that arrive (GRO), datagrams that leave together (GSO, batches, coalescing),
//! and what comes with a datagram.

mod batches;
mod beside;
mod coalescing;
mod gro;
mod metadata;
mod trains;

use ebbtide::net::UdpSocket;
use ebbtide_testkit::{Ledger, numbered};

/// A receiver, and a sender that is connected to it.
fn pair() -> (UdpSocket, UdpSocket) {
    let options = UdpSocket::options().recv_buffer_size(1 << 22);
    let receiver = options.bind("127.0.0.1:0").unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    (receiver, sender)
}

/// The numbered datagrams from `first` on, each of `len` bytes and the last of `last`, as one
/// train.
fn train(first: u64, count: u64, len: usize, last: usize) -> Vec<u8> {
    let len_of = |number| if number + 1 == first + count { last } else { len };
    (first..first + count).flat_map(|number| numbered(0, number, len_of(number))).collect()
}

async fn receive(socket: &UdpSocket, ledger: &mut Ledger, count: u64) {
    while ledger.received < count {
        ledger.enter(&socket.recv().await.unwrap().expect("not drained"));
    }
}
