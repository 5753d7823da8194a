//! A receiver passes datagrams to another thread through a channel with one slot. The exit waits
//! until it comes back for the end, although no timer is pending.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use ebbtide::net::UnixDatagram;
use ebbtide::task::yield_now;
use ebbtide::{DrainOutcome, spawn};
use ebbtide_testkit::{Shape, on_every_shape, patient};
use parking_lot::{Condvar, Mutex};

use crate::queued::socket_with;

on_every_shape!(
    a_receiver_that_waits_for_another_thread_is_waited_for,
    a_receiver_that_was_handed_its_datagrams_before_the_drain_is_waited_for,
    several_receivers_that_wait_for_another_thread_are_waited_for,
);

const COUNT: usize = 200;

/// A channel with one slot, from tasks to a thread.
#[derive(Default)]
struct Channel {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    place: Option<u8>,
    senders: usize,
    wakers: VecDeque<Waker>,
}

impl Channel {
    async fn send(&self, item: u8) {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            if state.place.is_some() {
                state.wakers.push_back(cx.waker().clone());
                return Poll::Pending;
            }
            state.place = Some(item);
            self.changed.notify_all();
            Poll::Ready(())
        })
        .await;
    }

    /// Waits until all `senders` have ended, and returns how many items they sent.
    fn count(&self) -> usize {
        let mut count = 0;
        let mut state = self.state.lock();
        loop {
            if state.place.take().is_some() {
                count += 1;
                let wakers = std::mem::take(&mut state.wakers);
                drop(state);
                wakers.into_iter().for_each(Waker::wake);
                state = self.state.lock();
            } else if state.senders == 0 {
                return count;
            } else {
                self.changed.wait(&mut state);
            }
        }
    }
}

struct Sender(Arc<Channel>);

impl Sender {
    fn new(channel: &Arc<Channel>) -> Self {
        channel.state.lock().senders += 1;
        Self(Arc::clone(channel))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.state.lock().senders -= 1;
        self.0.changed.notify_all();
    }
}

/// `receivers` tasks receive batches of up to `most` datagrams, and pass on each datagram.
fn hand_on(shape: Shape, receivers: usize, most: usize) {
    let runtime = shape.runtime();
    let channel = Arc::new(Channel::default());
    runtime.block_on(async {
        let socket = Rc::new(socket_with(COUNT));
        for _ in 0..receivers {
            let (socket, sender) = (Rc::clone(&socket), Sender::new(&channel));
            spawn(async move {
                let mut batch = Vec::new();
                while socket.recv_batch(&mut batch, most).await.unwrap() > 0 {
                    for payload in batch.drain(..).map(|datagram| datagram[0]).collect::<Vec<_>>() {
                        sender.0.send(payload).await;
                    }
                }
            });
        }
    });
    let counter = thread::spawn({
        let channel = Arc::clone(&channel);
        move || channel.count()
    });
    let report = runtime.shutdown(patient());
    let dropped = report.stats.dropped_by_kernel as usize;
    assert_eq!(counter.join().unwrap() + dropped, COUNT, "batches of {most}: {report}");
    assert_eq!((report.outcome, report.tasks_dropped), (DrainOutcome::Complete, 0), "{report}");
}

/// Fails when the exit waits for a receiver only while a timer is pending.
fn a_receiver_that_waits_for_another_thread_is_waited_for(shape: Shape) {
    for most in [1, 8, 64] {
        hand_on(shape, 1, most);
    }
}

/// Fails when one of several receivers that is away is forgotten because another has asked since.
fn several_receivers_that_wait_for_another_thread_are_waited_for(shape: Shape) {
    for most in [1, 8] {
        hand_on(shape, 3, most);
    }
}

/// Fails when the exit waits only for datagrams that were handed out after the seal.
fn a_receiver_that_was_handed_its_datagrams_before_the_drain_is_waited_for(shape: Shape) {
    let runtime = shape.runtime();
    let channel = Arc::new(Channel::default());
    channel.state.lock().place = Some(0);
    let (go_on, sealed) = mpsc::channel();
    runtime.block_on(async {
        let (_peer, other) = UnixDatagram::pair().unwrap();
        spawn(async move {
            assert!(other.recv().await.unwrap().is_none());
            go_on.send(()).unwrap();
        });
        let (socket, sender) = (Rc::new(socket_with(1)), Sender::new(&channel));
        let receiver = Rc::clone(&socket);
        spawn(async move {
            while let Some(datagram) = receiver.recv().await.unwrap() {
                let payload = datagram[0];
                drop(datagram);
                sender.0.send(payload).await;
            }
        });
        while socket.stats().delivered == 0 {
            yield_now().await;
        }
    });
    let counter = thread::spawn({
        let channel = Arc::clone(&channel);
        move || {
            // The slot stays occupied until the drain has begun, and a little longer. In that time,
            // a drain that does not wait for the receiver ends.
            sealed.recv().unwrap();
            thread::sleep(Duration::from_millis(20));
            channel.count()
        }
    });
    let report = runtime.shutdown(patient());
    assert_eq!((counter.join().unwrap(), report.outcome), (2, DrainOutcome::Complete), "{report}");
}
