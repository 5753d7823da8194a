//! A failed submit keeps the queued entries.
//!
//! Cause: `io_uring_enter` failed with `EAGAIN`. The runtime assumed that its requests were
//! rejected, and freed what they named. But the entries stay in the submission queue. An entry
//! counts as in flight from its push, whatever enter returns, and the next successful enter
//! executes it. A well-known runtime has this bug.

use std::os::unix::net;

use ebbtide::net::{Sending, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide_testkit::seccomp::with_refused_if;
use ebbtide_testkit::{Shape, numbered};
use futures_util::FutureExt;

/// The position of `to_submit` among the arguments of io_uring_enter(2).
const TO_SUBMIT: u8 = 1;

/// The number of sends that are queued when the enter fails. From twice as many on, it succeeds.
const SENDS: usize = 8;

/// Long enough for a separate allocation.
const LEN: usize = 4096;

/// A socket whose sends wait, and its peer.
fn full_socket() -> (UnixDatagram, net::UnixDatagram) {
    let (socket, peer) = net::UnixDatagram::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let socket = UnixDatagram::from_std(socket).unwrap();
    while socket.try_send(&[0; LEN]).is_ok() {}
    (socket, peer)
}

/// Reads what is queued at the peer, except for what it was filled with.
fn read_all(peer: &net::UnixDatagram) -> Vec<Vec<u8>> {
    let mut memory = [0; 2 * LEN];
    let received =
        std::iter::from_fn(|| peer.recv(&mut memory).ok().map(|len| memory[..len].to_vec()));
    received.filter(|payload| payload[..] != [0; LEN]).collect()
}

/// Queues the sends of all `payloads`, while some enters are refused.
async fn sends_that_were_refused<'a>(
    socket: &'a UnixDatagram,
    payloads: &'a [Vec<u8>],
) -> Vec<Sending<'a>> {
    let mut sends: Vec<_> = payloads.iter().map(|payload| socket.send(payload)).collect();
    for send in &mut sends {
        assert!(send.now_or_never().is_none(), "the queue is full");
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

/// The cancel of the send waits behind it in the queue. Neither may be confused with later entries.
#[test]
fn a_dropped_send_whose_submit_failed_does_not_take_place() {
    with_refused_submissions(async || {
        let (socket, peer) = full_socket();
        yield_now().await;
        let payloads = payloads();
        let sends = sends_that_were_refused(&socket, &payloads).await;
        assert!(read_all(&peer).is_empty(), "the enter was not refused");
        // Each adds a cancel, so that the kernel accepts the number of entries.
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

/// Fails when a refused submit counts as done, or as an error of the operations.
#[test]
fn a_send_whose_submit_failed_is_sent_by_a_later_one() {
    with_refused_submissions(async || {
        let (socket, peer) = full_socket();
        yield_now().await;
        let payloads = payloads();
        let sends = sends_that_were_refused(&socket, &payloads).await;
        assert!(read_all(&peer).is_empty(), "the enter was not refused");
        // More entries, for an accepted number.
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
