//! [`Backlog`]: a queue that is filled when the contestant is ready, for drains.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::fail;
use super::stopwatch::{Clock, Elapsed, Stopwatch};

pub(crate) struct Backlog {
    control: RefCell<UnixStream>,
    watch: RefCell<Stopwatch>,
}

impl Backlog {
    pub(crate) fn new(control: UnixStream, clock: Clock) -> Self {
        Self { control: RefCell::new(control), watch: RefCell::new(Stopwatch::new(clock)) }
    }

    /// Blocks while the generator fills the queue; then the clock runs.
    pub(crate) fn fill(&self) {
        let mut control = self.control.borrow_mut();
        let filled = control.write_all(b"n").and_then(|()| control.read_exact(&mut [0]));
        if let Err(error) = filled {
            fail(&format!("the load generator is gone: {error}"));
        }
        self.watch.borrow_mut().start();
    }

    /// Everything was delivered, and everything is closed.
    pub(crate) fn finish(&self) {
        self.watch.borrow_mut().stop();
    }

    pub(crate) fn elapsed(&self) -> Elapsed {
        self.watch.borrow().total()
    }
}
