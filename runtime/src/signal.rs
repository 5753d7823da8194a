//! Signals, by `signal-hook`: its handler writes to a socket pair, whose other end the driver
//! watches.

use std::ffi::c_int;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};

use crate::driver::{Interest, Readiness};
use crate::handle::Handle;
use crate::in_flight::InFlight;

/// Waits for SIGTERM or SIGINT: the signals that ask a program to end.
///
/// Listening begins with the call. From then on these signals do not end the process any more, not
/// even after the future is gone.
///
/// # Errors
///
/// That the handler could not be installed: no descriptor is left.
///
/// # Cancellation
///
/// Dropping it stops listening; a signal that came before is forgotten.
///
/// ```no_run
/// ebbtide_runtime::run(async {
///     ebbtide_runtime::signal::terminate().await?;
///     println!("{}", ebbtide_runtime::drain().await);
///     std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub fn terminate() -> Signals {
    Signals::listen(&[SIGTERM, SIGINT])
}

/// Waits for SIGINT, which Ctrl-C sends. Otherwise as [`terminate`].
///
/// ```no_run
/// ebbtide_runtime::run(async { ebbtide_runtime::signal::ctrl_c().await })
/// # .unwrap();
/// ```
pub fn ctrl_c() -> Signals {
    Signals::listen(&[SIGINT])
}

/// The future of [`terminate`] and [`ctrl_c`].
#[must_use = "futures do nothing unless awaited"]
pub struct Signals {
    /// An error is kept for the first poll.
    listener: io::Result<Listener>,
    arrival: Option<InFlight<Readiness<UnixStream>>>,
}

struct Listener {
    /// The end that the handler does not write to.
    pipe: UnixStream,
    handlers: Vec<SigId>,
}

impl Signals {
    fn listen(signals: &[c_int]) -> Self {
        Self { listener: Listener::new(signals), arrival: None }
    }
}

impl Listener {
    fn new(signals: &[c_int]) -> io::Result<Self> {
        let (pipe, writer) = UnixStream::pair()?;
        let mut listener = Self { pipe, handlers: Vec::new() };
        for &signal in signals {
            listener.handlers.push(pipe::register(signal, writer.try_clone()?)?);
        }
        Ok(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            unregister(handler);
        }
    }
}

impl Future for Signals {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let listener = match &this.listener {
            Ok(listener) => listener,
            Err(error) => return Poll::Ready(Err(io::Error::new(error.kind(), error.to_string()))),
        };
        if this.arrival.is_none() {
            let readiness = Readiness::new(listener.pipe.try_clone()?, Interest::Readable);
            this.arrival = Some(Handle::try_current()?.submit(readiness));
        }
        let arrival = this.arrival.as_mut().expect("it was just submitted");
        Pin::new(arrival).poll(cx)
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}
