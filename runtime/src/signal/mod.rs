//! Signals, by `signal-hook`: its handler counts them, and ends the sleep of the runtimes that listen.
//!
//! A signal is *reported* to a runtime when a future of it completes because of it. What came since
//! the process first listened is kept until then, so that a loop that makes a new future each time
//! around misses nothing:
//!
//! ```
//! # use ebbtide::{signal::terminate, task::yield_now, time::timeout};
//! # ebbtide::run(async {
//! # let mut turns = 0;
//! loop {
//!     // Dropped and made again, over and over; a signal in between completes the next one.
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
//! Exactly:
//!
//! * The process listens from the first call of [`terminate`] or [`ctrl_c`] on, for good: the signals of
//!   that function do not end the process by themselves any more.
//! * A future completes for each signal that came after it was made. If its runtime had signals
//!   then that were not reported yet, it completes at once.
//! * Signals that come before a future completes are reported together. A future that is made after that
//!   completes at the next signal: this is how a program waits for a second one.
//! * Each runtime is told on its own, and so is each future that exists when the signal comes. A
//!   runtime that listens for the first time is told what no runtime was told.
//! * A process that was forked begins without signals: those of its parent are not its own, nor are
//!   its own those of its parent. It listens as its parent did.

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

/// Waits for SIGTERM or SIGINT: the signals that ask a program to end.
///
/// Listening begins with the first call. From then on these signals do not end the process by
/// themselves any more, and none is missed: one that came while no future existed completes the next
/// one at once. See [the module](self) for what a second signal does, and for several runtimes.
///
/// # Errors
///
/// That the handler could not be installed, or that no descriptor is left. That this is no runtime.
///
/// # Cancellation
///
/// Dropping it loses nothing: a signal that it has not reported completes the next one.
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

/// Waits for SIGINT, which Ctrl-C sends. Otherwise as [`terminate`].
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
    /// Why it could not listen, until that is returned.
    error: Option<io::Error>,
    since: Since,
    waiter: Option<Waiter>,
    way: GiveWay,
}

/// From where on it listens.
struct Since {
    process: Process,
    /// How many of each had been reported when it was made.
    reported: [u32; SOURCES.len()],
}

/// Its place among those of its runtime.
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

    /// The runtime of the thread, once it listens.
    fn listening_handle(&mut self) -> io::Result<LocalHandle> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let handle = LocalHandle::try_current()?;
        handle.signals().register(handle.tasks().inbox().eventfd())?;
        Ok(handle)
    }

    /// Whether a signal has come that it is to report, and if so, that it was reported.
    fn take_report(&mut self, handle: &LocalHandle) -> bool {
        let process = Process::current();
        if self.since.process != process {
            // It was made before the fork.
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
        // It may have been moved to another runtime.
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
    /// From what the runtime of this thread was told on; outside a runtime, what any was told.
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
        // Before looking: what comes from now on wakes.
        let handle = match self.listening_handle() {
            Ok(handle) => handle,
            // Each report is of another signal, but the same error may come each time.
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
