//! The drain: how a runtime ends without losing a datagram.
//!
//! ```text
//! 1 seal      every datagram socket: from here on its queue only shrinks
//! 2 cancel    every receive in flight
//! 3 reap      to the final completion of each: what was received is in the inboxes, in order
//! 4 read      the first batch of each socket, without waiting: whoever waits for it is woken
//! 5 deliver   run tasks, whose receives read on until EAGAIN, until nothing is left to do, or the
//!             deadline; what nobody has taken then is read to be counted
//! 6 end       drop the tasks; cancel and reap whatever is left; close sockets, pool and ring
//! ```
//!
//! [`seal_sockets`] is steps 1 to 4, takes no await and runs no user code; [`drain`] adds step 5;
//! [`Runtime::shutdown`](crate::Runtime::shutdown) adds step 6. The order of 3 and 4 keeps the
//! queue's order, and only after 1 does the end of 4 mean anything.
//!
//! The runtime knows no socket: what is drained is a [`Drainable`].

mod backlog;
mod deliveries;
mod delivery;
mod exit;
mod look;
mod membarrier;
mod quiescence;
mod report;
mod seal;
mod sockets;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use self::delivery::{Delivery, Scope};
pub use self::exit::{Exit, ExitHold, hold_exit};
pub(crate) use self::look::{end_sockets, in_hand, notice_quiescence, stop_draining, was_let_go};
pub(crate) use self::membarrier::global as membarrier;
pub(crate) use self::quiescence::{Quiescence, Ready};
pub use self::report::{DrainError, DrainOutcome, DrainReport, Quiesced, SocketStats};
pub(crate) use self::seal::seal_sockets;
pub(crate) use self::sockets::OpenSockets;
pub use self::sockets::{DrainKey, Drainable, Member, Pass, Presence, ReadProgress, Receivers};
use crate::handle::LocalHandle;
use crate::task::GiveWay;

/// How a drain is carried out.
///
/// ```
/// use std::time::Duration;
/// use ebbtide::Drain;
///
/// let policy = Drain::default().deadline(Duration::from_secs(2));
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Drain {
    deadline: Duration,
    quiesce: bool,
}

impl Default for Drain {
    /// A deadline of 10 seconds, without `quiesce`.
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), quiesce: false }
    }
}

impl Drain {
    /// How long receivers get to take what was queued, counted from the start of the drain. What is
    /// left then is counted as undelivered. Sealing and reading are not cut short by it: they are
    /// finite by themselves.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whether to wait, before and after the seal, for datagrams whose `send` has returned but
    /// which another CPU has not queued yet (receive packet steering, a real network card). Off by
    /// default. What comes after the seal counts as refused.
    ///
    /// Before the seal it waits until each CPU has processed what its receive backlog held
    /// (`/proc/net/softnet_stat`, Linux 5.10), and then until each has been through the scheduler
    /// (`membarrier(MEMBARRIER_CMD_GLOBAL)`), which ends what it was carrying to a socket. After the
    /// seal only the latter is left to be waited for. This costs what the backlogs take, and about
    /// 40 ms twice; the sockets are read meanwhile. It ends at the [`deadline`](Self::deadline).
    /// [`DrainReport::quiesced`] says whether the wait was had.
    ///
    /// Beside a network card it may end early: packets that the card delivers on a CPU count as
    /// processed by it. That the scheduler orders the network's work is how Linux does it, not what
    /// it promises.
    pub fn quiesce(mut self, quiesce: bool) -> Self {
        self.quiesce = quiesce;
        self
    }
}

/// Seals every datagram socket of the runtime that is open now, stage by stage ([`Exit`]).
///
/// When it returns, every datagram that was queued before the seal has been handed to a receiver,
/// or the deadline of the policy has passed and the report counts what is left. The program goes
/// on, and can open new sockets. A socket that the kernel refuses to seal is read once: see
/// [`DrainReport::unsealed`].
///
/// All sockets are sealed at once, unless they say otherwise: what a relay sends on to another socket
/// of the same runtime is then refused there, and so are the answers of an upstream. Such a socket is
/// to be sealed later: [`Exit::SealLast`].
///
/// What a receiver does with its last datagram is waited for until it comes back for the end, and so
/// are sends, calls of `spawn_blocking` and [holds](ExitHold). A task that works on what others
/// have received, because one of them has woken or spawned it, is waited for until 250 ms have passed
/// without progress, and so is one tick of whatever is periodic; if work needs longer, it holds the exit
/// open. Timeouts are not waited for.
///
/// A task that is itself the only receiver of a socket must not wait for this, neither directly nor
/// through a join handle: the drain notices, and ends with [`DrainOutcome::WaitsForItself`]. Call the
/// socket's own `drain` and then receive until `None`, or drain in a task of its own. A hold of a task
/// that waits for the drain is waited for until the deadline.
///
/// # Cancellation
///
/// The sockets of the first stage are sealed at the first poll; dropping the future after that stops
/// waiting, and does not seal those of later stages.
///
/// ```
/// ebbtide::run(async {
///     let report = ebbtide::drain().await;
///     assert_eq!(report.undelivered, 0);
///     std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub fn drain() -> Draining {
    drain_with(Drain::default())
}

/// [`drain`] with a policy of its own.
pub fn drain_with(policy: Drain) -> Draining {
    Draining { policy, state: State::Start { handle: None, way: GiveWay::default() } }
}

/// The drain of a runtime that may not be that of the thread any more, because the thread ends.
pub(crate) fn drain_of(handle: &LocalHandle, policy: Drain) -> Draining {
    Draining {
        policy,
        state: State::Start { handle: Some(handle.clone()), way: GiveWay::default() },
    }
}

/// The future of [`drain`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Draining {
    policy: Drain,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing was done yet. `None`: the runtime of the thread that polls. A drain may have nothing to
    /// wait for.
    Start { handle: Option<LocalHandle>, way: GiveWay },
    /// Steps 1 to 4 are done; receivers take what was queued.
    Delivering(Box<Delivery>),
    /// The report was returned. The future may be kept, but its task does not wait any more.
    Ended,
}

impl Future for Draining {
    type Output = DrainReport;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DrainReport> {
        if let State::Start { handle, way } = &mut self.state {
            ready!(way.poll(cx));
            let (handle, scope) = match handle.take() {
                Some(handle) => (handle, Scope::Runtime),
                None => (LocalHandle::current(), Scope::Sockets),
            };
            self.state = State::Delivering(Box::new(Delivery::start(handle, self.policy, scope)));
        }
        let State::Delivering(delivery) = &mut self.state else {
            panic!("a drain was polled after its end");
        };
        delivery.handle.assert_own();
        let polled = delivery.poll(cx);
        if polled.is_ready() {
            self.state = State::Ended;
        }
        polled
    }
}
