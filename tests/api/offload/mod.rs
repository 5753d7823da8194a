//! Offloads: trains that arrive (GRO), datagrams that are sent together (GSO, batches, coalescing),
//! and the metadata of datagrams.

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

/// A train of `count` numbered datagrams from `first` on. Each has `len` bytes, the last has
/// `last`.
fn train(first: u64, count: u64, len: usize, last: usize) -> Vec<u8> {
    let len_of = |number| if number + 1 == first + count { last } else { len };
    (first..first + count).flat_map(|number| numbered(0, number, len_of(number))).collect()
}

async fn receive(socket: &UdpSocket, ledger: &mut Ledger, count: u64) {
    while ledger.received < count {
        ledger.enter(&socket.recv().await.unwrap().expect("not drained"));
    }
}
