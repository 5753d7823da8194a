//! Blocking calls: the threads that they run on, and how many hold up the exit.

mod calls;
mod threads;

pub(crate) use self::calls::{BlockingCalls, CallGuard};
pub(crate) use self::threads::{Handed, Threads};
