//! What outlives what: whichever of runtime, task, socket, datagram, waker, handle and timer goes
//! first, nothing leaks, nothing hangs, and nothing is used after it is gone.

mod runtimes;
mod sockets;
mod tasks;
mod wakers_and_timers;

use std::rc::Rc;

use ebbtide::Runtime;

fn small_runtime() -> Runtime {
    Runtime::builder().buffers(64).build().unwrap()
}

/// Counts the futures that are alive: each holds a clone.
type Alive = Rc<()>;

fn alive(count: &Alive) -> usize {
    Rc::strong_count(count) - 1
}
