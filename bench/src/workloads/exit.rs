//! Exits: how many datagrams are lost when a program ends while a sender floods.
//!
//! What counts is what the kernel had queued before the end was decided (the sends had returned,
//! and the socket had buffer space), less what the program received. Speed is not judged, but a
//! slow receiver has more in its queue to lose.

use std::io;
use std::sync::atomic::Ordering;

use super::sink::v4;
use crate::contestants::{Contestant, Exit, ExitBy};
use crate::harness::cpu::GENERATOR_CPU;
use crate::harness::gate::Pace;
use crate::harness::tally::ExitTally;
use crate::harness::{fail, generator, shared, sockets};
use crate::load::flood::{Flood, SendCall, Target};
use crate::metric::Metric;

#[derive(Clone, Copy, Debug)]
pub(crate) struct ExitPlan {
    pub(crate) by: ExitBy,
    /// Datagrams that are received before the end is decided.
    pub(crate) before: u64,
    /// Datagrams that may wait in the socket.
    pub(crate) window: u64,
}

const SIZE: usize = 64;

impl ExitPlan {
    pub(crate) fn measure(
        &self,
        contestant: &Contestant,
        work: fn(Exit) -> io::Result<()>,
    ) -> io::Result<Vec<Metric>> {
        let flood = Flood {
            marks: vec![u64::MAX],
            pace: Pace::Live,
            call: SendCall::Gso,
            size: SIZE,
            rate: None,
            window: self.window,
        };
        let shared = shared::map()?;
        let socket = sockets::udp_socket()?;
        let kept = socket.try_clone()?;
        let target = Target::Udp(vec![v4(&socket)?]);
        let (by, before) = (self.by, self.before);
        let (generator, control) = generator::start(GENERATOR_CPU, move |control| {
            let terminate = (by == ExitBy::Signal).then_some(before);
            flood.run_until_closed(target, shared, &control, terminate)
        })?;
        let until = match by {
            ExitBy::Return => before,
            ExitBy::Signal => u64::MAX,
        };
        let tally = ExitTally::new(SIZE, until, shared);
        work(Exit { socket, tally, by, largest: 2048 })?;
        let delivered = shared.received[0].0.load(Ordering::Acquire);
        drop(control);
        generator.join();

        let sent = shared.sent_at_exit.0.load(Ordering::Acquire);
        if sent == 0 {
            fail(&format!("{} ended before it was asked to", contestant.name));
        }
        let received = shared.received_at_exit.0.load(Ordering::Acquire);
        // What a seal refuses is counted as dropped, and came after the end was decided.
        let dropped = sockets::dropped_by_kernel(&kept)?;
        Ok(vec![
            Metric::new("lost", "datagrams", sent.saturating_sub(delivered) as f64),
            Metric::new("queued_at_exit", "datagrams", sent.saturating_sub(received) as f64),
            Metric::new("delivered", "datagrams", delivered as f64),
            Metric::new("refused", "datagrams", dropped as f64),
        ])
    }
}
