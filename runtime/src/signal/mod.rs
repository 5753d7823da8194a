//! Signals: futures that complete at SIGTERM or SIGINT.
//!
//! The handler of `signal-hook` counts signals and wakes the runtimes that listen. A signal is
//! *reported* to a runtime when a future of it completes because of the signal. Signals that come
//! after the process began to listen are kept until they are reported. So a loop that makes a new
//! future in each round misses none:
//!
//! ```
//! # use ebbtide::{signal::terminate, task::yield_now, time::timeout};
//! # ebbtide::run(async {
//! # let mut turns = 0;
//! loop {
//!     // Dropped and made again in each round; a signal in between completes the next future.
//!     if let Ok(terminated) = timeout(std::time::Duration::ZERO, terminate()).await {
//!         return terminated;
//!     }
//! #   turns += 1;
//! #   if turns > 3 { return Ok(()) }
//!     yield_now().await; // Receive, and handle what came.
//! }
//! # }).unwrap();
//! ```
//!
//! The rules:
//!
//! - The process begins to listen at the first call of [`terminate`] or [`ctrl_c`], and never
//!   stops. The signals of that function no longer end the process by themselves.
//! - A future completes at a signal that comes after the future was made. If signals had come by
//!   then that were not yet reported to its runtime, it completes at once.
//! - Signals that come before a future completes are reported together. A future that is made
//!   afterwards completes at the next signal: this is how a program waits for a second one.
//! - Signals are reported to each runtime, and to each future that exists when the signal comes. A
//!   runtime that listens for the first time gets the signals that were reported to no runtime.
//! - A forked process starts without signals. Those of its parent are not reported to it, nor the
//!   other way. It listens as its parent did.

mod on_terminate;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

pub use self::on_terminate::{drain_on_terminate, drain_on_terminate_with};
use crate::handle::LocalHandle;
use crate::process::Process;
use crate::signal_handler::{SOURCES, Source};
use crate::task::GiveWay;

/// Waits for SIGTERM or SIGINT, the signals that ask a program to end.
///
/// The process begins to listen at the first call. From then on, these signals do not end the
/// process by themselves, and none is missed: a signal that comes while no future exists completes
/// the next future at once. See [the module](self) for second signals and for several runtimes.
///
/// # Errors
///
/// - If the signal handler cannot be installed.
/// - If no descriptor is left.
/// - If it is awaited outside a runtime.
///
/// # Cancellation
///
/// Dropping the future loses nothing: a signal that it has not reported completes the next future.
///
/// ```no_run
/// ebbtide::run(async {
///     ebbtide::signal::terminate().await?;
///     println!("{}", ebbtide::drain().await);
///     std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub fn terminate() -> Signals {
    Signals::listen(&[Source::Terminate, Source::Interrupt])
}

/// Waits for SIGINT, the signal that Ctrl-C sends. See [`terminate`] for listening, errors and
/// cancellation.
///
/// ```no_run
/// ebbtide::run(async { ebbtide::signal::ctrl_c().await })
/// # .unwrap();
/// ```
pub fn ctrl_c() -> Signals {
    Signals::listen(&[Source::Interrupt])
}

/// The future of [`terminate`] and [`ctrl_c`].
#[must_use = "futures do nothing unless awaited"]
pub struct Signals {
    sources: &'static [Source],
    /// Why it cannot listen, until this is returned.
    error: Option<io::Error>,
    since: Since,
    waiter: Option<Waiter>,
    way: GiveWay,
}

/// The signals that had been reported when the future was made.
struct Since {
    process: Process,
    /// How many signals of each source had been reported.
    reported: [u32; SOURCES.len()],
}

/// Its entry among the waiting futures of its runtime.
struct Waiter {
    handle: LocalHandle,
    key: usize,
}

impl Signals {
    fn listen(sources: &'static [Source]) -> Self {
        let listening: io::Result<()> = sources.iter().try_for_each(|source| source.count());
        Self {
            sources,
            error: listening.err(),
            since: Since::now(),
            waiter: None,
            way: GiveWay::default(),
        }
    }

    /// Returns the runtime of the thread, which listens from then on.
    fn listening_handle(&mut self) -> io::Result<LocalHandle> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let handle = LocalHandle::try_current()?;
        handle.signals().register(handle.tasks().remote_queue().eventfd())?;
        Ok(handle)
    }

    /// Whether a signal has come that this future has to report. If so, records that it was
    /// reported.
    fn take_report(&mut self, handle: &LocalHandle) -> bool {
        let process = Process::current();
        if self.since.process != process {
            // The future was made before the fork.
            self.since = Since::now();
        }
        let since = &mut self.since.reported;
        let is_new = |&source: &Source| source.has_come_since(since[source as usize], process);
        if !self.sources.iter().any(is_new) {
            return false;
        }
        for &source in self.sources {
            since[source as usize] = handle.signals().report(source, process);
        }
        true
    }

    fn wait(&mut self, handle: LocalHandle, waker: &Waker) {
        // Cloned before and dropped after the borrow: wakers are third-party code.
        let waker = Some(waker.clone());
        // The future may have been moved to another runtime.
        self.waiter.take_if(|known| !known.handle.is_of(&handle));
        if let Some(known) = &self.waiter {
            drop(known.handle.signals().replace(known.key, waker));
            return;
        }
        let key = handle.signals().wait(waker);
        self.waiter = Some(Waiter { handle, key });
    }
}

impl Since {
    /// What was reported to the runtime of this thread; outside a runtime, what was reported to
    /// any.
    fn now() -> Self {
        let process = Process::current();
        let handle = LocalHandle::try_current().ok();
        let reported = SOURCES.map(|source| match &handle {
            Some(handle) => handle.signals().reported(source, process),
            None => source.reported(process),
        });
        Self { process, reported }
    }
}

impl Future for Signals {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Before looking: signals that come from now on wake the runtime.
        let handle = match self.listening_handle() {
            Ok(handle) => handle,
            // A signal is reported once, but the same error may be returned each time: give way to
            // other tasks.
            Err(error) if self.way.poll(cx).is_ready() => return Poll::Ready(Err(error)),
            Err(error) => {
                self.error = Some(error);
                return Poll::Pending;
            }
        };
        if self.take_report(&handle) {
            return Poll::Ready(Ok(()));
        }
        self.wait(handle, cx.waker());
        Poll::Pending
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        drop(self.handle.signals().stop_waiting(self.key));
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("sources", &self.sources).finish_non_exhaustive()
    }
}
