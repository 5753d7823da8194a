//! What a program says about its exit: [`Exit`], what becomes of a socket, and [`ExitHold`], by which
//! it holds the exit open.

use std::fmt;
use std::sync::Arc;

use crate::blocking::CallGuard;
use crate::handle::LocalHandle;
use crate::task::{RemoteQueue, Runnable};

/// What a drain does to a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Exit {
    /// Seals it with the first: the kernel queues nothing more on it, and what is queued is
    /// delivered.
    #[default]
    Seal,
    /// Seals it when all sockets of lower stages were delivered; [`Seal`](Self::Seal) is stage 0.
    ///
    /// For a socket that the handling of other sockets' datagrams needs: one that a relay sends to
    /// inside the program, or one that the answers of an upstream come to. Sealed with the others,
    /// it would refuse what they still bring about.
    SealInStage(u8),
    /// Seals it after all others: stage 255.
    SealLast,
    /// Does not seal it. What was taken from the kernel is delivered; the rest stays in the kernel's
    /// queue, and further datagrams join it.
    ///
    /// For a socket that somebody else holds, too, whose queue outlives this program: one from
    /// socket activation, from a supervisor, or shared with a forked sibling. It is best said when the
    /// socket is opened: nothing is taken from it then until somebody asks.
    Leave,
}

impl Exit {
    /// When it is sealed, or left.
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
/// The exit waits by itself for receivers, for sends, and for calls of `spawn_blocking`. What else
/// must be done before the program ends says so with this: a worker that takes datagrams from a
/// queue and awaits a database for each, or a thread of its own.
///
/// One line in the worker does it. When the receivers have seen the end and dropped their side of the
/// queue, the worker finds it closed and ends, and with it the hold:
///
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
/// It may be sent to another thread and dropped there. A deadline that passes over it is reported:
/// [`DrainReport::unfinished`](crate::DrainReport::unfinished).
pub struct ExitHold {
    /// `None` while it is being dropped.
    hold: Option<CallGuard>,
    inbox: Arc<RemoteQueue<Runnable>>,
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
        ExitHold { hold: Some(self.blocking().hold()), inbox: Arc::clone(self.tasks().inbox()) }
    }
}

impl Drop for ExitHold {
    /// Let go first, then wake: the loop looks at the count between saying that it sleeps and
    /// sleeping.
    fn drop(&mut self) {
        drop(self.hold.take());
        self.inbox.wake();
    }
}

impl fmt::Debug for ExitHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExitHold").finish_non_exhaustive()
    }
}
