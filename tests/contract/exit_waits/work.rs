//! Work that a receiver passes on, and ways to end a test while it goes on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use ebbtide::net::{Datagram, UdpSocket};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{DrainOutcome, DrainReport, spawn};
use ebbtide_testkit::{Shape, patient};
use parking_lot::Mutex;

/// Longer than the uncertain wait.
pub(super) const LONG: Duration = Duration::from_millis(400);

/// How many datagrams were handled.
pub(super) type Count = Rc<Cell<usize>>;

pub(super) fn add(count: &Count) {
    count.set(count.get() + 1);
}

/// Runs `setup` on a runtime of `shape`, and shuts it down.
pub(super) fn exit_after(shape: Shape, setup: impl AsyncFnOnce()) -> DrainReport {
    let runtime = shape.runtime();
    runtime.block_on(setup());
    runtime.shutdown(patient())
}

/// Runs `setup` and shuts down. Fails unless the tasks of `setup` handled `all` datagrams and the
/// drain was complete.
pub(super) fn all_is_handled(
    shape: Shape,
    all: usize,
    setup: impl AsyncFnOnce(Count),
) -> DrainReport {
    let handled = Count::default();
    let report = exit_after(shape, async || setup(Rc::clone(&handled)).await);
    assert_eq!(handled.get(), all, "{}: {report}", shape.name);
    assert_eq!(report.outcome, DrainOutcome::Complete, "{}: {report}", shape.name);
    report
}

pub(super) async fn until_delivered(socket: &UdpSocket, count: u64) {
    while socket.stats().delivered < count {
        yield_now().await;
    }
}

/// A queue between two tasks.
pub(super) struct Queue<T> {
    items: RefCell<VecDeque<T>>,
    closed: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Rc<Self> {
        let items = RefCell::default();
        Rc::new(Self { items, closed: Cell::new(false), waker: Cell::default() })
    }

    pub(super) fn push(&self, item: T) {
        self.items.borrow_mut().push_back(item);
        self.wake();
    }

    pub(super) fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) async fn pop(&self) -> Option<T> {
        poll_fn(|cx| match self.items.borrow_mut().pop_front() {
            None if !self.closed.get() => {
                self.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
            item => Poll::Ready(item),
        })
        .await
    }
}

/// Passes each datagram on to `queue`, converted by `wrap`.
pub(super) fn spawn_receiver<T: 'static>(
    socket: Rc<UdpSocket>,
    queue: &Rc<Queue<T>>,
    wrap: impl Fn(Datagram) -> T + 'static,
) {
    let queue = Rc::clone(queue);
    spawn(async move {
        while let Some(datagram) = socket.recv().await.unwrap() {
            queue.push(wrap(datagram));
        }
        queue.close();
    });
}

/// Spawns a receiver, and a worker that does `work` for each datagram of the receiver.
pub(super) fn spawn_worker(socket: Rc<UdpSocket>, work: impl AsyncFn() + 'static) {
    let queue = Queue::new();
    spawn_receiver(socket, &queue, drop);
    spawn(async move {
        while queue.pop().await.is_some() {
            work().await;
        }
    });
}

/// What a task with work waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    Sleep,
    /// See [`elsewhere`].
    Elsewhere,
}

impl Wait {
    pub(super) const BOTH: [Self; 2] = [Self::Sleep, Self::Elsewhere];

    pub(super) async fn pass(self, time: Duration) {
        match self {
            Self::Sleep => sleep(time).await,
            Self::Elsewhere => elsewhere(time).await,
        }
    }
}

/// Waits like a database client: another thread answers after a while.
pub(super) async fn elsewhere(time: Duration) {
    let answer = Arc::new(Mutex::new((false, None::<Waker>)));
    let to_answer = Arc::clone(&answer);
    thread::spawn(move || {
        thread::sleep(time);
        let mut answer = to_answer.lock();
        answer.0 = true;
        if let Some(waker) = answer.1.take() {
            waker.wake();
        }
    });
    poll_fn(|cx| {
        let mut answer = answer.lock();
        if answer.0 {
            return Poll::Ready(());
        }
        answer.1 = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}
