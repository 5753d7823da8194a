//! The contestants: one file each, one [`Contestant`] each, listed in [`all`].
//!
//! # How to add one
//!
//! Write `contestants/NAME.rs` with a `pub(super) const NAME: Contestant`, and list it in [`all`].
//! A contestant is a table of functions, one per kind of work; `None` means that it cannot do it,
//! and the comparison leaves the cell empty. Start from [`Contestant::new`], which can do nothing.
//!
//! A function is called once per process. The process has one thread, pinned to the receiver's CPU,
//! and the load generator is running. The function makes its runtime, does the work, and
//! returns; what it returns with `Err` voids the measurement. It keeps no clock: the tallies know
//! when the warm-up is over and start it.
//!
//! - [`Sink`]: receive from each of `active`, show **every** datagram to the tally of its socket
//!   (`Tally::take`) until it returns `Flow::Done`, and return when all have. `idle` sockets
//!   receive nothing, but must be listened to in the same way. The address of the sender must be
//!   received, because a server needs it. A tally may block the thread in the middle of a `take`,
//!   while nothing is queued on any socket. Buffers of `largest` bytes suffice.
//! - [`Echo`]: `EchoTally::take` each request, and answer it to where it came from. After
//!   `Flow::Done`, answer that one as well, make sure that the answers are with the kernel, and
//!   call `EchoTally::finish`.
//! - [`Drain`], [`Exit`], [`Micro`] and [`Task`] have their own documentation.
//!
//! Write what a user would write, and the fastest form of that which the contestant's documentation
//! teaches. No contestant gets a special case for a workload.

#[cfg(feature = "peers")]
mod compio;
#[cfg(feature = "peers")]
mod drain_directly;
#[cfg(feature = "peers")]
mod monoio;
#[cfg(feature = "peers")]
mod quinn_udp;
#[cfg(feature = "peers")]
mod smol;
#[cfg(feature = "peers")]
mod tokio;

mod ebbtide;
mod epoll;
mod epoll_mmsg;
mod jobs;
mod micro;
mod raw_ring;

use std::io;

use crate::harness::stopwatch::Clock;
pub(crate) use jobs::{Drain, Echo, Exit, ExitBy, Gro, Micro, Sink, Task};

pub(crate) type Work<T> = Option<fn(T) -> io::Result<()>>;

pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    /// One line for `list`.
    pub(crate) about: &'static str,
    /// Whose CPU time counts.
    pub(crate) clock: Clock,
    pub(crate) sink: Work<Sink>,
    /// The sink with [`Gro::On`].
    pub(crate) sink_gro: Work<Sink>,
    pub(crate) unix_sink: Work<Sink>,
    pub(crate) echo: Work<Echo>,
    /// Answers to one peer, which may leave as GSO trains.
    pub(crate) echo_coalesced: Work<Echo>,
    pub(crate) drain: Work<Drain>,
    pub(crate) exit: Work<Exit>,
    /// Spawn `batch` tasks which do nothing but return a number, and join them.
    pub(crate) spawn: Work<Micro>,
    /// In one task, yield `batch` times.
    pub(crate) yields: Work<Micro>,
    /// Arm `batch` timers of 1 to 60 seconds (poll each once), and drop them.
    pub(crate) timers: Work<Micro>,
    /// Run a task that another thread wakes.
    pub(crate) run_task: Work<Task>,
}

impl Contestant {
    pub(crate) const fn new(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            clock: Clock::Thread,
            sink: None,
            sink_gro: None,
            unix_sink: None,
            echo: None,
            echo_coalesced: None,
            drain: None,
            exit: None,
            spawn: None,
            yields: None,
            timers: None,
            run_task: None,
        }
    }
}

/// All contestants of this build, in the order of tables and plots.
pub(crate) fn all() -> Vec<&'static Contestant> {
    vec![
        &raw_ring::RAW_RING,
        &raw_ring::RAW_RING_GRO,
        &ebbtide::EBBTIDE,
        &ebbtide::EBBTIDE_EPOLL,
        &epoll::ONE,
        &epoll::EDGE,
        &epoll_mmsg::MMSG,
        &epoll_mmsg::MMSG_GRO,
        #[cfg(feature = "peers")]
        &tokio::CURRENT_THREAD,
        #[cfg(feature = "peers")]
        &tokio::MULTI_THREAD,
        #[cfg(feature = "peers")]
        &quinn_udp::QUINN_UDP,
        #[cfg(feature = "peers")]
        &smol::SMOL,
        #[cfg(feature = "peers")]
        &compio::COMPIO,
        #[cfg(feature = "peers")]
        &compio::COMPIO_MULTI,
        #[cfg(feature = "peers")]
        &monoio::MONOIO,
    ]
}

/// The contestant of that name.
pub(crate) fn find(name: &str) -> Option<&'static Contestant> {
    all().into_iter().find(|contestant| contestant.name == name)
}

/// The contestant of that name, for an argument.
pub(crate) fn parse(name: &str) -> Result<&'static Contestant, &'static str> {
    find(name).ok_or("no contestant of this build has this name (see `list` and --features peers)")
}
