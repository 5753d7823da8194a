//! Offloads: trains that arrive (GRO), datagrams that leave together (GSO, batches, coalescing),
//! and what comes with a datagram.

// UNSAFETY: setsockopt takes a raw pointer, and recvmsg writes memory that is not initialized.
#![expect(unsafe_code, reason = "argued above")]

#[path = "../support/faults.rs"]
mod faults;
#[path = "../support/seccomp.rs"]
mod seccomp;
#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod batches;
mod beside;
mod coalescing;
mod gro;
mod metadata;
mod trains;

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use ebbtide::Runtime;
use ebbtide::net::UdpSocket;
use ebbtide::time::timeout;

use crate::support::{Ledger, numbered};

/// Runs the scenario; one that never ends fails.
fn run<F: Future>(runtime: &Runtime, scenario: F) -> F::Output {
    let patience = Duration::from_secs(60);
    runtime.block_on(async { timeout(patience, scenario).await.expect("it never ends") })
}

/// A receiver, and a sender that is connected to it.
fn pair() -> (UdpSocket, UdpSocket) {
    let options = UdpSocket::options().recv_buffer_size(1 << 22);
    let receiver = options.bind("127.0.0.1:0").unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    (receiver, sender)
}

/// The numbered datagrams from `first` on, each of `len` bytes and the last of `last`, as one train.
fn train(first: u64, count: u64, len: usize, last: usize) -> Vec<u8> {
    let len_of = |number| if number + 1 == first + count { last } else { len };
    (first..first + count).flat_map(|number| numbered(0, number, len_of(number))).collect()
}

async fn receive(socket: &UdpSocket, ledger: &mut Ledger, count: u64) {
    while ledger.received < count {
        ledger.enter(&socket.recv().await.unwrap().expect("not drained"));
    }
}

/// What a library that is not Ebbtide does.
fn set_gro(socket: &impl AsRawFd) {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
}

fn set_option(socket: &impl AsRawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) {
    // SAFETY: the pointer names `value` and its length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "option {option}: {}", io::Error::last_os_error());
}
