//! What contestants are asked to do: one type per kind of work.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;

use socket2::Socket;

use crate::harness::backlog::Backlog;
use crate::harness::fail;
use crate::harness::stopwatch::Stopwatch;
use crate::harness::tally::{EchoTally, ExitTally, Tally};

/// Whether the kernel may hand datagrams over as trains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gro {
    /// The default of sockets that a user of the contestant makes.
    AsDefault,
    /// The contestant turns it off if it is on by default.
    Off,
    /// The contestant turns it on.
    On,
}

/// Receive, and look at each datagram.
pub(crate) struct Sink {
    /// Non-blocking and bound (UDP), or connected (Unix).
    pub(crate) active: Vec<(Socket, Tally)>,
    /// Sockets that receive nothing.
    pub(crate) idle: Vec<Socket>,
    pub(crate) gro: Gro,
    /// Bytes of the largest datagram.
    pub(crate) largest: usize,
}

/// Answer each request with its own payload.
pub(crate) struct Echo {
    pub(crate) socket: Socket,
    pub(crate) tally: EchoTally,
    pub(crate) largest: usize,
}

/// End with a full queue, and lose nothing of it.
///
/// Make the runtime and a receiver that waits; then call [`Backlog::fill`], which fills the
/// socket's queue while the thread blocks, and starts the clock; then do what a program must do so
/// that every datagram reaches the tally and everything is closed, the runtime too; then call
/// [`Backlog::finish`].
pub(crate) struct Drain {
    pub(crate) socket: Socket,
    pub(crate) tally: Tally,
    pub(crate) backlog: Rc<Backlog>,
    pub(crate) largest: usize,
}

/// End while a sender floods, in the way in which programs of this runtime end.
///
/// Receive until the tally returns `Done`, or until SIGTERM comes if `by` is `Signal`; wait for it
/// by the means of the runtime. Then end the program's main future, drop the runtime, and return.
/// Datagrams that are received meanwhile are shown to the tally as well. Write no loop until
/// `EAGAIN`: what is measured is what happens to users who do not know that they need one.
pub(crate) struct Exit {
    pub(crate) socket: Socket,
    pub(crate) tally: ExitTally,
    pub(crate) by: ExitBy,
    pub(crate) largest: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ExitBy {
    /// The main future returns when the tally returns `Done`.
    Return,
    /// The main future returns when SIGTERM has come.
    Signal,
}

/// An operation, many times. `for batch in micro.batches()`: do it `batch` times, and report to
/// [`Micro::did`] how often it was done. The first batch is the warm-up; the clock starts after it,
/// and stops when the iterator ends.
#[derive(Clone)]
pub(crate) struct Micro {
    batch: u64,
    batches: u64,
    done: Rc<RefCell<(u64, Stopwatch)>>,
}

impl Micro {
    pub(crate) fn new(batch: u64, batches: u64, watch: Stopwatch) -> Self {
        Self { batch, batches, done: Rc::new(RefCell::new((0, watch))) }
    }

    pub(crate) fn batches(&self) -> impl Iterator<Item = u64> {
        let micro = self.clone();
        (0..=micro.batches + 1).map_while(move |index| {
            if index == 1 {
                micro.done.borrow_mut().1.start();
            }
            if index <= micro.batches {
                return Some(micro.batch);
            }
            micro.done.borrow_mut().1.stop();
            None
        })
    }

    /// It was done `count` more times.
    pub(crate) fn did(&self, count: u64) {
        self.done.borrow_mut().0 += count;
    }

    /// How often it was measured, and the clock.
    pub(crate) fn into_result(self) -> (u64, crate::harness::stopwatch::Elapsed) {
        let done = self.done.borrow();
        let expected = self.batch * (self.batches + 1);
        if done.0 != expected {
            fail(&format!("it was done {} times, not {expected}", done.0));
        }
        (self.batch * self.batches, done.1.total())
    }
}

/// A future that needs no runtime: spawn it as a task, and return when it has ended.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
