//! What the exit waits for, in which order, and what it says.
//!
//! No time limit is a verdict here: a drain that waits for what never comes has a deadline of an hour,
//! so that a test of it hangs where it fails.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod at_work;
mod in_hand;
mod left;
mod periodic;
mod stages;
mod thread_end;
mod verdicts;

use std::net::SocketAddr;
use std::time::Duration;

use ebbtide::Drain;
use ebbtide::net::UdpSocket;

/// A deadline that no test reaches.
fn patient() -> Drain {
    Drain::default().deadline(Duration::from_secs(3_600))
}

/// A socket, and `count` datagrams in its queue.
fn socket_with(count: usize) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    send(count, socket.local_addr().unwrap());
    socket
}

fn send(count: usize, to: SocketAddr) {
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..count {
        sender.send_to(&[number as u8], to).unwrap();
    }
}
