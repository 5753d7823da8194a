//! Lost completions. No kernel can be made to lose them at will, so the kernel is a model. Random
//! losses are in `model/`.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::super::backend::Backend;
use super::super::descriptor::{Interest, eventfd};
use super::super::enter::{EnterOutcome, Wait};
use super::super::{Armed, Batch, Driver, Layout, Polled, Readiness, Sink, Verdict, Wakes};
use crate::limits::Limits;
use crate::model::ModelQueues;

/// A kernel that completes and loses what it is told to, and has nothing in flight.
#[derive(Clone, Default)]
struct Lossy(Rc<State>);

#[derive(Default)]
struct State {
    /// User data, result, flags.
    posted: RefCell<Vec<(u64, i32, u32)>>,
    queued: Cell<usize>,
    submitted: Cell<usize>,
    registered: Cell<usize>,
    lost: Cell<u32>,
}

impl ModelQueues for Lossy {
    fn register_buffers(&mut self, _: u64, _: u16) {
        self.0.registered.set(self.0.registered.get() + 1);
    }

    fn unregister_buffers(&self) {}

    fn push(&mut self, _: &io_uring::squeue::Entry) -> bool {
        self.0.queued.set(self.0.queued.get() + 1);
        true
    }

    fn queued(&self) -> usize {
        self.0.queued.get()
    }

    fn enter(&mut self, queued: usize, _: usize, _: Option<Duration>) -> io::Result<usize> {
        self.0.submitted.set(self.0.submitted.get() + self.0.queued.take());
        Ok(queued)
    }

    fn take_completions(&mut self, take: &mut dyn FnMut(u64, i32, u32)) {
        let posted = self.0.posted.take();
        posted.into_iter().for_each(|(user_data, result, flags)| take(user_data, result, flags));
    }

    fn cancel_now(&mut self, _: u64) -> bool {
        false
    }

    fn lost(&self) -> u32 {
        self.0.lost.get()
    }

    fn posted(&self) -> usize {
        self.0.posted.borrow().len()
    }

    fn has_overflowed(&self) -> bool {
        false
    }

    fn has_task_work(&self) -> bool {
        false
    }
}

const BUFFERS: usize = 8;

impl Lossy {
    fn driver(&self) -> Driver {
        let limits = Limits { buffers: BUFFERS, buffer_size: 512, ..Limits::default() };
        let eventfd = Arc::new(eventfd().unwrap());
        Driver::on_model(Box::new(self.clone()), &limits, eventfd).unwrap()
    }

    /// Loses `count` completions. Returns how many entries are submitted for that.
    fn lose(&self, driver: &mut Driver, count: u32) -> usize {
        self.0.lost.set(self.0.lost.get() + count);
        assert_eq!(driver.submit_and_wait(Wait::Forever), EnterOutcome::CompletionLost);
        let before = self.0.submitted.get();
        driver.collect(&mut Wakes::default());
        driver.submit_and_wait(Wait::No);
        assert_eq!(driver.counts().completions_lost, u64::from(self.0.lost.get()));
        self.0.submitted.get() - before
    }
}

/// Asks to be armed again whenever its receive ends, and keeps what it is handed.
struct Keeping {
    socket: UnixDatagram,
    ends: Cell<usize>,
    kept: RefCell<Vec<super::super::Filled>>,
}

impl Sink for Keeping {
    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn layout(&self) -> Layout {
        Layout::new(0, 0)
    }

    fn receive(&self, batch: Batch<'_>, _: Armed, _: &mut Wakes) -> Verdict {
        self.kept.borrow_mut().extend(batch);
        Verdict::Keep
    }

    fn end(&self, _: Option<io::Error>, armed: Armed, _: &mut Wakes) -> Verdict {
        assert_eq!(armed, Armed::NoMore);
        self.ends.set(self.ends.get() + 1);
        Verdict::Rearm
    }
}

fn keeping() -> Rc<Keeping> {
    let socket = UnixDatagram::unbound().unwrap();
    Rc::new(Keeping { socket, ends: Cell::default(), kept: RefCell::default() })
}

/// Fails when the socket receives nothing from then on.
#[test]
fn a_receive_whose_end_was_lost_is_armed_again() {
    let kernel = Lossy::default();
    let mut driver = kernel.driver();
    let sink = keeping();
    let key = driver.register(Rc::clone(&sink) as Rc<dyn Sink>);
    driver.arm(key);
    driver.submit_and_wait(Wait::No);
    // The receive, and the poll of the eventfd.
    assert_eq!(kernel.lose(&mut driver, 1), 2);
    assert_eq!(sink.ends.get(), 1);
    assert_eq!(kernel.lose(&mut driver, 3), 2);
    assert_eq!((sink.ends.get(), driver.counts().in_flight), (2, 1));
    driver.backend = Backend::Ended;
}

/// Fails when the pool counts lost buffers, which the kernel has filled, as the kernel's. In the
/// end the kernel has none, and is given none.
#[test]
fn buffers_that_were_lost_are_free_again() {
    let kernel = Lossy::default();
    let mut driver = kernel.driver();
    let sink = keeping();
    let key = driver.register(Rc::clone(&sink) as Rc<dyn Sink>);
    driver.arm(key);
    driver.submit_and_wait(Wait::No);
    let with_buffer = |id: u32| (0, 16, id << 16 | 3);
    kernel.0.posted.replace(vec![with_buffer(0), with_buffer(1)]);
    driver.collect(&mut Wakes::default());
    assert_eq!(sink.kept.borrow().len(), 2);
    assert!(driver.pool().take_free().is_none(), "the kernel has the others");
    kernel.0.lost.set(1);
    driver.submit_and_wait(Wait::Forever);
    driver.collect(&mut Wakes::default());
    assert_eq!(kernel.0.registered.get(), 2);
    let pool = driver.pool();
    let free: Vec<_> = std::iter::from_fn(|| pool.take_free()).collect();
    assert_eq!(free.len(), BUFFERS - 2);
    drop(free);
    driver.backend = Backend::Ended;
}

/// Fails when its future waits for ever, or gets an error that does not concern it.
#[test]
fn an_operation_whose_completion_was_lost_is_submitted_again() {
    let kernel = Lossy::default();
    let mut driver = kernel.driver();
    let socket = UnixDatagram::unbound().unwrap();
    let id = driver.submit(Box::new(Readiness::new(socket, Interest::Readable)));
    driver.submit_and_wait(Wait::No);
    // The operation, and the poll of the eventfd.
    assert_eq!(kernel.lose(&mut driver, 1), 2);
    assert!(matches!(driver.poll(id, Waker::noop().clone()), Polled::Pending { .. }));
    kernel.0.posted.borrow_mut().push((id.to_user_data(), 1, 0));
    driver.collect(&mut Wakes::default());
    assert!(matches!(driver.poll(id, Waker::noop().clone()), Polled::Ready { result: 1, .. }));
    driver.backend = Backend::Ended;
}

/// Fails when a loss hides what came before it, or when the end of what was dropped is not
/// reported.
#[test]
fn a_dropped_operation_whose_completion_was_lost_is_over() {
    let kernel = Lossy::default();
    let mut driver = kernel.driver();
    let socket = UnixDatagram::unbound().unwrap();
    let id = driver.submit(Box::new(Readiness::new(socket, Interest::Readable)));
    driver.orphan(id, &mut Wakes::default());
    driver.submit_and_wait(Wait::No);
    assert_eq!(driver.counts().in_flight, 1);
    // Only the poll of the eventfd.
    assert_eq!(kernel.lose(&mut driver, 1), 1);
    assert_eq!(driver.counts().in_flight, 0);
    driver.backend = Backend::Ended;
}
