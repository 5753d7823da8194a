//! Tasks: join handles as in tokio, panics that stop at the task, wakes from other threads,
//! blocking calls, timers, and fairness.

mod blocking;
mod fairness;
mod join_handles;
mod large;
mod panics;
mod places;
mod time;
mod wakes;

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use ebbtide::Runtime;

/// Runs `future` on a new runtime.
fn run<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(future)
}

/// A flag that several tasks share.
fn flag() -> (Rc<Cell<bool>>, Rc<Cell<bool>>) {
    let flag = Rc::new(Cell::new(false));
    (Rc::clone(&flag), flag)
}

/// Sets its flag, or panics, when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
