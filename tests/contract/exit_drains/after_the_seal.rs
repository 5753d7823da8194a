//! A sealed socket is read by its receivers, a batch at a time. What they have not taken stays in
//! the kernel's queue. It is not forgotten, and does not wait for receivers that do not ask.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide::{Drain, DrainOutcome};
use ebbtide_testkit::{Shape, on_every_shape};
use parking_lot::Mutex;

on_every_shape!(
    receivers_that_take_one_datagram_each_are_all_served,
    a_receiver_that_waits_for_a_thread_between_batches_is_waited_for,
    what_nobody_took_is_counted_when_the_socket_is_dropped,
    what_nobody_took_is_counted_at_the_deadline,
    a_batch_and_a_look_read_on_as_well,
);

/// Several times the size of a batch.
const BACKLOG: u64 = 300;

/// A socket whose buffer is larger than the backlog.
fn socket() -> Rc<UdpSocket> {
    let options = UdpSocket::options().recv_buffer_size(1 << 20);
    Rc::new(options.bind("127.0.0.1:0").unwrap())
}

/// Fills the queue before the runtime can receive.
fn fill(socket: &UdpSocket) {
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    for number in 0..BACKLOG {
        sender.send_to(&number.to_le_bytes(), address).unwrap();
    }
}

fn number(datagram: &[u8]) -> u64 {
    u64::from_le_bytes(datagram.try_into().expect("8 bytes"))
}

/// Fails when only the receivers of the first batch are woken, because the others do not ask again
/// by themselves.
fn receivers_that_take_one_datagram_each_are_all_served(shape: Shape) {
    shape.runtime().block_on(async {
        let socket = socket();
        let tasks: Vec<_> = (0..BACKLOG)
            .map(|_| {
                let socket = Rc::clone(&socket);
                ebbtide::spawn(async move { number(&socket.recv().await.unwrap().unwrap()) })
            })
            .collect();
        // More than are polled in one turn.
        for _ in 0..10 {
            yield_now().await;
        }
        fill(&socket);
        socket.drain().unwrap();
        for _ in 0..10 * BACKLOG {
            if tasks.iter().all(|task| task.is_finished()) {
                break;
            }
            yield_now().await;
        }
        let served = tasks.iter().filter(|task| task.is_finished()).count() as u64;
        assert_eq!(served, BACKLOG, "{}", shape.name);
        for (expected, task) in (0..).zip(tasks) {
            assert_eq!(task.await.unwrap(), expected, "receivers are served in order");
        }
    });
}

/// An answer from a thread of the test, and the waker of its receiver.
#[derive(Default)]
struct Answer(Mutex<(bool, Option<Waker>)>);

impl Answer {
    fn give(&self) {
        let mut answer = self.0.lock();
        answer.0 = true;
        if let Some(waker) = answer.1.take() {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            let mut answer = self.0.lock();
            if answer.0 {
                return Poll::Ready(());
            }
            answer.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The thread shows the runtime no sign of work. Only the queue shows that the receiver is
/// expected. Fails when an empty inbox counts as an empty queue.
fn a_receiver_that_waits_for_a_thread_between_batches_is_waited_for(shape: Shape) {
    let (ask, asked): (Sender<Arc<Answer>>, Receiver<Arc<Answer>>) = channel();
    let thread = thread::spawn(move || {
        for answer in asked {
            // Long enough for the runtime to find nothing to do.
            thread::sleep(Duration::from_millis(1));
            answer.give();
        }
    });
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = socket();
        let receiver = Rc::clone(&socket);
        ebbtide::spawn(async move {
            while let Some(_datagram) = receiver.recv().await.unwrap() {
                let answer = Arc::new(Answer::default());
                ask.send(Arc::clone(&answer)).unwrap();
                answer.wait().await;
            }
        });
        yield_now().await;
        fill(&socket);
    });
    let report = runtime.shutdown(Drain::default());
    assert_eq!((report.stats.received, report.undelivered), (BACKLOG, 0), "{report}");
    thread.join().unwrap();
}

fn what_nobody_took_is_counted_when_the_socket_is_dropped(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = socket();
        fill(&socket);
        socket.drain().unwrap();
        for expected in 0..10 {
            assert_eq!(number(&socket.recv().await.unwrap().unwrap()), expected);
        }
    });
    let stats = runtime.shutdown(Drain::default()).stats;
    assert_eq!((stats.received, stats.delivered), (BACKLOG, 10), "{stats:?}");
    assert_eq!((stats.discarded, stats.abandoned), (BACKLOG - 10, 0), "{stats:?}");
}

fn what_nobody_took_is_counted_at_the_deadline(shape: Shape) {
    let runtime = shape.runtime();
    let socket = runtime.block_on(async { socket() });
    fill(&socket);
    let report = runtime.shutdown(Drain::default());
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Unclaimed, BACKLOG));
    assert_eq!(socket.stats().discarded, BACKLOG, "{report}");
}

fn a_batch_and_a_look_read_on_as_well(shape: Shape) {
    shape.runtime().block_on(async {
        let socket = socket();
        fill(&socket);
        socket.drain().unwrap();
        let (mut next, mut batch) = (0, Vec::new());
        while socket.recv_batch(&mut batch, 100).await.unwrap() > 0 {
            for datagram in batch.drain(..) {
                assert_eq!(number(&datagram), next);
                next += 1;
            }
            if let Some(datagram) = socket.try_recv().unwrap() {
                assert_eq!(number(&datagram), next);
                next += 1;
            }
        }
        assert_eq!(next, BACKLOG, "{}", shape.name);
        assert!(socket.try_recv().unwrap().is_none());
    });
}
