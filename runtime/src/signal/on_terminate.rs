//! [`drain_on_terminate`]: the task that most servers need.

use std::io;
use std::rc::Rc;

use super::terminate;
use crate::drain::{self, Drain, DrainReport, drain_with};
use crate::handle::LocalHandle;
use crate::task::{Cause, JoinHandle};

/// Drains the runtime at SIGTERM or SIGINT, in a task of its own; a second signal ends that at once.
///
/// With this, a server is a loop of `while let Some(datagram) = socket.recv().await?`: at the signal,
/// every socket is sealed, its receivers get what is queued and then `None`, and the program ends
/// where its main future does. At a second signal, what is still queued is thrown away and counted,
/// receivers get `None` at once, and [`run`](crate::run) drops its future and returns an error.
///
/// Listening begins with the call. The handle returns the report of the drain; dropping it changes
/// nothing.
///
/// ```no_run
/// ebbtide::run(async {
///     let drained = ebbtide::signal::drain_on_terminate()?;
///     // Bind, and receive until `None`.
///     println!("{}", drained.await?);
///     std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
///
/// # Errors
///
/// Outside a runtime; that the handler could not be installed; that no descriptor is left.
pub fn drain_on_terminate() -> io::Result<JoinHandle<DrainReport>> {
    drain_on_terminate_with(Drain::default())
}

/// [`drain_on_terminate`] with a policy of its own.
///
/// # Errors
///
/// Those of [`drain_on_terminate`].
pub fn drain_on_terminate_with(policy: Drain) -> io::Result<JoinHandle<DrainReport>> {
    // Before the handler is installed, which stays.
    LocalHandle::try_current()?;
    let mut first = terminate();
    let handle = first.listening_handle()?;
    Ok(handle.clone().spawn(async move {
        first.await.expect("it listens already");
        // In a task of its own: the program may go on when the drain is over. It is no work of a program.
        let tasks = Rc::clone(handle.tasks());
        tasks.wake_because_of(Cause::Outside, || {
            handle.clone().spawn(async move {
                if terminate().await.is_ok() {
                    drain::stop_draining(&handle);
                }
            });
        });
        drain_with(policy).await
    }))
}
