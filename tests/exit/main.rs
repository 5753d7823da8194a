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
mod work;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
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

/// Longer than what is uncertain is waited for.
const LONG: Duration = Duration::from_millis(400);

/// What a database client does: another thread answers after a while.
async fn elsewhere(time: Duration) {
    let answer = Arc::new(Mutex::new((false, None::<Waker>)));
    let to_answer = Arc::clone(&answer);
    thread::spawn(move || {
        thread::sleep(time);
        let mut answer = to_answer.lock().unwrap();
        answer.0 = true;
        if let Some(waker) = answer.1.take() {
            waker.wake();
        }
    });
    poll_fn(|cx| {
        let mut answer = answer.lock().unwrap();
        if answer.0 {
            return Poll::Ready(());
        }
        answer.1 = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}
