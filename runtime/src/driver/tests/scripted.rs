//! How the driver handles completions that no kernel can be made to post at will.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::super::backend::Backend;
use super::super::descriptor::eventfd;
use super::super::{Armed, Batch, Driver, Layout, Sink, Verdict, Wakes};
use crate::limits::Limits;
use crate::model::ModelQueues;

/// A kernel that posts what it is told to: user data, result, flags.
#[derive(Clone, Default)]
struct Scripted(Rc<RefCell<Vec<(u64, i32, u32)>>>);

impl ModelQueues for Scripted {
    fn register_buffers(&mut self, _: u64, _: u16) {}

    fn unregister_buffers(&self) {}

    fn push(&mut self, _: &io_uring::squeue::Entry) -> bool {
        true
    }

    fn queued(&self) -> usize {
        0
    }

    fn enter(&mut self, queued: usize, _: usize, _: Option<Duration>) -> io::Result<usize> {
        Ok(queued)
    }

    fn take_completions(&mut self, take: &mut dyn FnMut(u64, i32, u32)) {
        let posted = self.0.take();
        posted.into_iter().for_each(|(user_data, result, flags)| take(user_data, result, flags));
    }

    fn cancel_now(&mut self, _: u64) -> bool {
        false
    }

    fn lost(&self) -> u32 {
        0
    }

    fn posted(&self) -> usize {
        self.0.borrow().len()
    }

    fn has_overflowed(&self) -> bool {
        false
    }

    fn has_task_work(&self) -> bool {
        false
    }
}

/// `IORING_CQE_F_BUFFER` and `IORING_CQE_F_MORE`.
const HAS_BUFFER: u32 = 1;
const MORE: u32 = 2;

impl Scripted {
    /// A completion that names the buffer `buffer`.
    fn tell(&self, index: u64, result: i32, buffer: u32) {
        self.0.borrow_mut().push((index, result, buffer << 16 | HAS_BUFFER | MORE));
    }

    /// A driver on such a kernel, with a pool of eight buffers.
    fn driver(&self) -> Driver {
        let limits = Limits { buffers: 8, buffer_size: 512, ..Limits::default() };
        let eventfd = Arc::new(eventfd().unwrap());
        Driver::on_model(Box::new(self.clone()), &limits, eventfd).unwrap()
    }
}

/// Fails when the pool never gets a buffer back: the memory of the whole pool would stay.
#[test]
fn a_buffer_with_no_message_for_anybody_goes_back_to_the_pool() {
    let kernel = Scripted::default();
    let mut driver = kernel.driver();
    kernel.tell(7, 16, 0);
    kernel.tell(7, -libc::EFAULT, 1);
    assert_eq!(driver.collect(&mut Wakes::default()), 2);
    let pool = driver.pool();
    assert_eq!(pool.free(), 8);
    let not_with_the_kernel: Vec<_> = std::iter::from_fn(|| pool.take_free()).collect();
    assert_eq!(not_with_the_kernel.len(), 2);
    drop(not_with_the_kernel);
    // No kernel ends the poll of the eventfd.
    driver.backend = Backend::Ended;
}

/// Panics at its first message, or counts its messages.
struct Counting {
    socket: UnixDatagram,
    panics: bool,
    count: Cell<usize>,
}

impl Sink for Counting {
    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn layout(&self) -> Layout {
        Layout::new(0, 0)
    }

    fn receive(&self, mut batch: Batch<'_>, _: Armed, _: &mut Wakes) -> Verdict {
        assert!(!self.panics || batch.next().is_none(), "the sink panics on purpose");
        self.count.set(self.count.get() + batch.count());
        Verdict::Keep
    }

    fn end(&self, _: Option<io::Error>, _: Armed, _: &mut Wakes) -> Verdict {
        Verdict::Keep
    }
}

/// Fails when the messages that a sink has left in a batch, because it panicked, are handed to the
/// next sink.
#[test]
fn what_a_sink_that_panics_leaves_goes_to_no_other() {
    let kernel = Scripted::default();
    let mut driver = kernel.driver();
    let sinks = [true, false].map(|panics| {
        let socket = UnixDatagram::unbound().unwrap();
        Rc::new(Counting { socket, panics, count: Cell::new(0) })
    });
    for sink in &sinks {
        let key = driver.register(Rc::clone(sink) as Rc<dyn Sink>);
        driver.arm(key);
    }
    (0..3).for_each(|buffer| kernel.tell(0, 16, buffer));
    let collected = catch_unwind(AssertUnwindSafe(|| driver.collect(&mut Wakes::default())));
    assert!(collected.is_err());
    kernel.tell(1, 16, 3);
    driver.collect(&mut Wakes::default());
    assert_eq!(sinks[1].count.get(), 1);
    driver.backend = Backend::Ended;
}

/// Records what it is handed, and for which socket.
struct Noting {
    socket: UnixDatagram,
    number: usize,
    log: Rc<RefCell<Vec<(usize, Handed)>>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Handed {
    Messages(usize),
    End,
}

impl Sink for Noting {
    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn layout(&self) -> Layout {
        Layout::new(0, 0)
    }

    fn receive(&self, batch: Batch<'_>, _: Armed, _: &mut Wakes) -> Verdict {
        self.log.borrow_mut().push((self.number, Handed::Messages(batch.count())));
        Verdict::Keep
    }

    fn end(&self, _: Option<io::Error>, _: Armed, _: &mut Wakes) -> Verdict {
        self.log.borrow_mut().push((self.number, Handed::End));
        Verdict::Keep
    }
}

/// Fails when messages of two sockets go to one, or when a later completion overtakes a message.
#[test]
fn a_batch_is_of_one_socket_and_comes_before_what_follows_it() {
    let kernel = Scripted::default();
    let mut driver = kernel.driver();
    let log = Rc::new(RefCell::new(Vec::new()));
    for number in 0..2 {
        let socket = UnixDatagram::unbound().unwrap();
        let sink = Noting { socket, number, log: Rc::clone(&log) };
        let key = driver.register(Rc::new(sink));
        driver.arm(key);
    }
    for (index, buffer) in [(0, 0), (0, 1), (1, 2), (0, 3)] {
        kernel.tell(index, 16, buffer);
    }
    kernel.0.borrow_mut().push((0, -libc::ENOBUFS, 0));
    kernel.tell(1, 16, 4);
    driver.collect(&mut Wakes::default());
    let messages = |number, count| (number, Handed::Messages(count));
    let expected =
        [messages(0, 2), messages(1, 1), messages(0, 1), (0, Handed::End), messages(1, 1)];
    assert_eq!(*log.borrow(), expected);
    driver.backend = Backend::Ended;
}
