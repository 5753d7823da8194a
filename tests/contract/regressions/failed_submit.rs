//! A failed submit keeps what was queued.
//!
//! Cause: `io_uring_enter` failed with `EAGAIN`, and the runtime took its requests for rejected and
//! freed what they named. But the entries stay in the submission queue: an entry counts as in
//! flight from its push, whatever enter returns, and the next enter that succeeds carries it out.
//! Open in a well-known runtime.

use std::os::unix::net;

use ebbtide::net::{Sending, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide_testkit::seccomp::with_refused_if;
use ebbtide_testkit::{Shape, numbered};
use futures_util::FutureExt;

/// Position of `to_submit` among the arguments of io_uring_enter(2).
const TO_SUBMIT: u8 = 1;

/// So many sends are queued when the enter fails; from twice as many on it succeeds.
const SENDS: usize = 8;

/// Long enough for an allocation of its own.
const LEN: usize = 4096;

/// A socket whose sends wait, and the other end.
fn full_socket() -> (UnixDatagram, net::UnixDatagram) {
    let (socket, peer) = net::UnixDatagram::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let socket = UnixDatagram::from_std(socket).unwrap();
    while socket.try_send(&[0; LEN]).is_ok() {}
    (socket, peer)
}

/// Reads what is queued at the peer, without what it was filled with.
fn read_all(peer: &net::UnixDatagram) -> Vec<Vec<u8>> {
    let mut memory = [0; 2 * LEN];
    let received =
        std::iter::from_fn(|| peer.recv(&mut memory).ok().map(|len| memory[..len].to_vec()));
    received.filter(|payload| payload[..] != [0; LEN]).collect()
}

/// Queues the sends of all `payloads` and lets some enters be refused.
async fn sends_that_were_refused<'a>(
    socket: &'a UnixDatagram,
    payloads: &'a [Vec<u8>],
) -> Vec<Sending<'a>> {
    let mut sends: Vec<_> = payloads.iter().map(|payload| socket.send(payload)).collect();
    for send in &mut sends {
        assert!(send.now_or_never().is_none(), "there is no room");
    }
    for _ in 0..10 {
        yield_now().await;
    }
    sends
}

fn with_refused_submissions(f: impl AsyncFnOnce() + Send) {
    let refused = SENDS as u32..=2 * SENDS as u32 - 1;
    with_refused_if(libc::SYS_io_uring_enter, TO_SUBMIT, refused, libc::EAGAIN, || {
        Shape::DEFAULT.runtime().block_on(f());
    });
}

fn payloads() -> Vec<Vec<u8>> {
    (1..=SENDS as u64).map(|number| numbered(1, number, LEN)).collect()
}

/// Its cancel waits behind it in the queue; the two must not be mixed up with what comes later.
#[test]
fn a_dropped_send_whose_submit_failed_does_not_take_place() {
    with_refused_submissions(async || {
        let (socket, peer) = full_socket();
        yield_now().await;
        let payloads = payloads();
        let sends = sends_that_were_refused(&socket, &payloads).await;
        assert!(read_all(&peer).is_empty(), "the enter was not refused");
        // Each adds a cancel, which makes the number of entries one that the kernel takes.
        drop(sends);
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(read_all(&peer).is_empty(), "a dropped send was sent");
        for payload in &payloads {
            assert_eq!(socket.send(payload).await.unwrap(), LEN);
        }
        assert_eq!(read_all(&peer), payloads);
    });
}

/// Fails when a refused submit is taken for done, or for an error of the operations.
#[test]
fn a_send_whose_submit_failed_is_sent_by_a_later_one() {
    with_refused_submissions(async || {
        let (socket, peer) = full_socket();
        yield_now().await;
        let payloads = payloads();
        let sends = sends_that_were_refused(&socket, &payloads).await;
        assert!(read_all(&peer).is_empty(), "the enter was not refused");
        // More entries, for the number.
        let mut others: Vec<_> = (0..SENDS).map(|_| socket.writable()).collect();
        for other in &mut others {
            assert!(other.now_or_never().is_none());
        }
        for send in sends {
            assert_eq!(send.await.unwrap(), LEN);
        }
        assert_eq!(read_all(&peer), payloads);
        for other in others {
            other.await.unwrap();
        }
    });
}
