//! What a program says about its exit: [`Exit`] says what happens to a socket, and [`ExitHold`]
//! holds the exit open.

use std::fmt;
use std::sync::Arc;

use crate::blocking::CallGuard;
use crate::handle::LocalHandle;
use crate::task::{RemoteQueue, Runnable};

/// What a drain does with a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Exit {
    /// Seals the socket in the first stage. The kernel queues nothing more on it, and what is
    /// queued is delivered.
    #[default]
    Seal,
    /// Seals the socket when all sockets of lower stages were delivered. [`Seal`](Self::Seal) is
    /// stage 0.
    ///
    /// For a socket that is needed to handle datagrams of other sockets: one that a relay forwards
    /// to within the program, or one that receives the replies of an upstream server. If it were
    /// sealed with the others, it would refuse these datagrams.
    SealInStage(u8),
    /// Seals the socket after all others, in stage 255.
    SealLast,
    /// Does not seal the socket. What was taken from the kernel is delivered. The rest stays in the
    /// kernel's queue, and further datagrams join it.
    ///
    /// For a socket that somebody else has, too, so that its queue outlives this program: one from
    /// socket activation or a supervisor, or one shared with a forked process. Set it when the
    /// socket is opened: nothing is taken from the queue then until somebody receives.
    Leave,
}

impl Exit {
    /// The stage in which the socket is sealed, or left.
    pub(super) fn stage(self) -> u8 {
        match self {
            Self::Seal | Self::Leave => 0,
            Self::SealInStage(stage) => stage,
            Self::SealLast => u8::MAX,
        }
    }
}

/// Holds the exit open: until it is dropped, a drain waits, up to its deadline.
///
/// The exit waits by itself for receivers, for sends, and for calls of `spawn_blocking`. Other work
/// that must be completed needs a hold. Examples are a worker that takes datagrams from a queue and
/// awaits a database for each, and a thread of the program.
///
/// One line in the worker is enough. When the receivers have seen the end and dropped their side of
/// the queue, the worker finds it closed and returns, which drops the hold:
/// ```
/// use std::time::Duration;
///
/// use ebbtide::time::sleep;
///
/// ebbtide::run(async {
///     ebbtide::spawn(async {
///         let _hold = ebbtide::hold_exit();
///         sleep(Duration::from_millis(20)).await; // a database, an upstream
///         println!("done before the program ends");
///     });
///     ebbtide::task::yield_now().await;
///     std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
///
/// It can be sent to another thread and dropped there. If the deadline passes first, the report
/// counts it: [`DrainReport::unfinished`](crate::DrainReport::unfinished).
pub struct ExitHold {
    /// `None` while it is being dropped.
    hold: Option<CallGuard>,
    remote_queue: Arc<RemoteQueue<Runnable>>,
}

/// Holds the exit of this thread's runtime open until the guard is dropped. See [`ExitHold`].
///
/// # Panics
///
/// Outside a runtime.
#[must_use = "the exit is held open only as long as the guard lives"]
pub fn hold_exit() -> ExitHold {
    LocalHandle::current().hold_exit()
}

impl LocalHandle {
    /// Holds the exit of this runtime open until the guard is dropped. See [`ExitHold`].
    #[must_use = "the exit is held open only as long as the guard lives"]
    pub fn hold_exit(&self) -> ExitHold {
        ExitHold {
            hold: Some(self.blocking().hold()),
            remote_queue: Arc::clone(self.tasks().remote_queue()),
        }
    }
}

impl Drop for ExitHold {
    /// Releases the hold first, then wakes the loop, which looks at the count after it has
    /// announced that it will sleep.
    fn drop(&mut self) {
        drop(self.hold.take());
        self.remote_queue.wake();
    }
}

impl fmt::Debug for ExitHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExitHold").finish_non_exhaustive()
    }
}
