//! What outlives what. Whichever of runtime, task, socket, datagram, waker, handle and timer is
//! dropped first, nothing leaks, nothing hangs, and nothing is used after it was dropped.

mod runtimes;
mod sockets;
mod tasks;
mod wakers_and_timers;

use std::rc::Rc;

use ebbtide::Runtime;

fn small_runtime() -> Runtime {
    Runtime::builder().buffers(64).build().unwrap()
}

/// Counts the living futures, each of which holds a clone.
type Alive = Rc<()>;

fn alive(count: &Alive) -> usize {
    Rc::strong_count(count) - 1
}
