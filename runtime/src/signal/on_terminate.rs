//! [`drain_on_terminate`]: the task that most servers need.

use std::io;
use std::rc::Rc;

use super::terminate;
use crate::drain::{self, Drain, DrainReport, drain_with};
use crate::handle::LocalHandle;
use crate::task::{Cause, JoinHandle};

/// Spawns a task that drains the runtime at SIGTERM or SIGINT. A second signal ends the drain at
/// once.
///
/// With this, a server is a loop of `while let Some(datagram) = socket.recv().await?`. At the
/// signal, every socket is sealed, its receivers get what is queued and then `None`, and the
/// program ends when its main future does. At a second signal, the rest is discarded and counted,
/// receivers get `None` at once, and [`run`](crate::run) drops its future and returns an error.
///
/// The process begins to listen at this call. The handle returns the report of the drain. Dropping
/// the handle changes nothing.
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
/// - If it is called outside a runtime.
/// - If the signal handler cannot be installed.
/// - If no descriptor is left.
pub fn drain_on_terminate() -> io::Result<JoinHandle<DrainReport>> {
    drain_on_terminate_with(Drain::default())
}

/// [`drain_on_terminate`] with this policy.
///
/// # Errors
///
/// Those of [`drain_on_terminate`].
pub fn drain_on_terminate_with(policy: Drain) -> io::Result<JoinHandle<DrainReport>> {
    // Checked first, because the handler that is installed next stays.
    LocalHandle::try_current()?;
    let mut first = terminate();
    let handle = first.listening_handle()?;
    Ok(handle.clone().spawn(async move {
        first.await.expect("it listens already");
        // In another task, because the program may go on when the drain is over. The wake is not
        // attributed to a task: it is no work on a datagram.
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
