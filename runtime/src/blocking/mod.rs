//! Blocking calls: the threads that run them, and how many calls the exit waits for.

mod calls;
mod threads;

pub(crate) use self::calls::{BlockingCalls, CallGuard};
pub(crate) use self::threads::{Handed, Threads};
