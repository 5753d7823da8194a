//! The drain: how a runtime ends without losing a datagram.
//!
//! ```text
//! 1 seal      every datagram socket: from here on its queue only shrinks
//! 2 cancel    every receive in flight
//! 3 reap      the final completion of each: what was received is in the inboxes, in order
//! 4 read      the first batch of each socket, without waiting; wake its receivers
//! 5 deliver   run tasks, whose receivers read on until EAGAIN, until the runtime is quiescent or
//!             the deadline passes; then read the rest, to count it
//! 6 end       drop the tasks; cancel and reap the rest; close sockets, pool and driver
//! ```
//!
//! [`seal_sockets`] does steps 1 to 4. It awaits nothing and runs no user code. [`drain`] adds step
//! 5, and [`Runtime::shutdown`](crate::Runtime::shutdown) adds step 6. The order of 3 and 4 keeps
//! the order of the queue. Only after step 1 does `EAGAIN` mean that the queue stays empty.
//!
//! The runtime knows no sockets: it drains what implements [`Drainable`].

mod backlog;
mod deliveries;
mod delivery;
mod exit;
mod look;
mod quiescence;
mod report;
mod seal;
mod sockets;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

pub(crate) use self::deliveries::membarrier;
use self::delivery::{Delivery, Scope};
pub use self::exit::{Exit, ExitHold, hold_exit};
pub(crate) use self::look::{end_sockets, in_hand, notice_quiescence, stop_draining, was_let_go};
pub(crate) use self::quiescence::{Quiescence, Ready};
pub use self::report::{DrainError, DrainOutcome, DrainReport, Quiesced, SocketStats};
pub(crate) use self::seal::seal_sockets;
pub(crate) use self::sockets::OpenSockets;
pub use self::sockets::{DrainKey, Drainable, Member, Pass, Presence, ReadProgress, Receivers};
use crate::handle::LocalHandle;
use crate::limits::DRAIN_DEADLINE_MS;
use crate::task::GiveWay;

/// The policy of a drain.
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
        Self { deadline: Duration::from_millis(DRAIN_DEADLINE_MS), quiesce: false }
    }
}

impl Drain {
    /// Sets how long receivers get to take what was queued, counted from the start of the drain.
    /// The default is 10 seconds. The rest is counted as undelivered.
    ///
    /// The deadline does not interrupt sealing and reading, which are bounded by themselves.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets whether to wait, before and after the seal, for datagrams whose `send` has returned but
    /// which another CPU has not queued yet. This happens with receive packet steering and with
    /// real network cards. The default is `false`.
    ///
    /// Before the seal, the drain first waits until each CPU has processed its receive backlog
    /// (`/proc/net/softnet_stat`, Linux 5.10). Then it waits until each CPU has been through the
    /// scheduler (`membarrier(MEMBARRIER_CMD_GLOBAL)`), which completes the delivery that the CPU
    /// had begun. After the seal, only the second wait is needed. Datagrams that arrive after the
    /// seal count as refused.
    ///
    /// This takes as long as the backlogs need, and about 40 ms twice. The sockets are read
    /// meanwhile. It ends at the [`deadline`](Self::deadline). [`DrainReport::quiesced`] reports
    /// whether the drain has waited.
    ///
    /// Beside a network card, the wait may end early: packets that the card delivers on a CPU count
    /// as processed by it. That the scheduler completes network work is how Linux behaves, not a
    /// guarantee.
    pub fn quiesce(mut self, quiesce: bool) -> Self {
        self.quiesce = quiesce;
        self
    }
}

/// Drains the runtime: seals every open datagram socket, stage by stage ([`Exit`]), and waits until
/// receivers have taken what was queued.
///
/// When it completes, every datagram that was queued before the seal has been handed to a receiver,
/// or the deadline of the policy has passed and the report counts the rest. The program goes on,
/// and can open new sockets. A socket that the kernel refuses to seal is read once: see
/// [`DrainReport::unsealed`].
///
/// # Stages
///
/// By default, all sockets are sealed at once. Datagrams that a relay forwards to another socket of
/// the same runtime are then refused there, and so are replies from an upstream server. Seal such a
/// socket later: [`Exit::SealLast`].
///
/// # What the drain waits for
///
/// - It waits for sends, for calls of `spawn_blocking`, and for [holds](ExitHold).
/// - It waits for a receiver that handles its last datagram, until the receiver comes back and gets
///   the end.
/// - It waits for other tasks that work on received datagrams, because a receiver woke or spawned
///   them, until 250 ms have passed without progress. It waits as long for one tick of an interval.
///   Work that takes longer has to [hold the exit open](hold_exit).
/// - It does not wait for timeouts.
///
/// A task that is the only receiver of a socket must not await the drain, neither directly nor
/// through a join handle. The drain detects this, and ends with [`DrainOutcome::WaitsForItself`].
/// Instead, drain in another task, or call `drain` of the socket and receive until `None`. If a
/// task that awaits the drain has a hold, the drain waits until the deadline.
///
/// # Cancellation
///
/// The first poll seals the sockets of the first stage. If the future is dropped later, these
/// sockets stay sealed, and those of later stages are not sealed.
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

/// Drains the runtime with this policy. See [`drain`](drain()).
pub fn drain_with(policy: Drain) -> Draining {
    Draining { policy, state: State::Start { handle: None, way: GiveWay::default() } }
}

/// The drain of a runtime that may no longer be the thread's, because the thread ends.
pub(crate) fn drain_of(handle: &LocalHandle, policy: Drain) -> Draining {
    Draining {
        policy,
        state: State::Start { handle: Some(handle.clone()), way: GiveWay::default() },
    }
}

/// The future of [`drain`](drain()) and [`drain_with`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Draining {
    policy: Drain,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing was done yet. Without a handle, the drain is that of the runtime that polls it. A
    /// drain may have nothing to wait for, so it has to give way.
    Start { handle: Option<LocalHandle>, way: GiveWay },
    /// Steps 1 to 4 are done. Receivers take what was queued.
    Delivering(Box<Delivery>),
    /// The report was returned. The future may be kept, but its task no longer waits.
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
