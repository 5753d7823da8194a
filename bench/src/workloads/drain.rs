//! Drains: what it costs to end with a full queue and to lose nothing.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::sink::v4;
use crate::contestants::{Contestant, Drain};
use crate::harness::backlog::Backlog;
use crate::harness::cpu::RECEIVER_CPU;
use crate::harness::gate::Pace;
use crate::harness::tally::Tally;
use crate::harness::{fail, generator, shared, sockets};
use crate::load::flood::{Flood, SendCall, Target};
use crate::metric::Metric;

#[derive(Clone, Copy, Debug)]
pub(crate) struct DrainPlan {
    /// Datagrams that are queued.
    pub(crate) backlog: u64,
    /// How often it is done in one measurement, each time with a new runtime and socket.
    pub(crate) times: u64,
}

const SIZE: usize = 64;

impl DrainPlan {
    pub(crate) fn measure(
        &self,
        contestant: &Contestant,
        work: fn(Drain) -> io::Result<()>,
        scale: f64,
    ) -> io::Result<Vec<Metric>> {
        let times = ((self.times as f64 * scale) as u64).max(1);
        let (mut cpu_ns, mut wall_ns) = (0.0, 0.0);
        for _ in 0..times {
            let elapsed = self.measure_one(contestant, work)?;
            cpu_ns += elapsed.cpu.as_nanos() as f64;
            wall_ns += elapsed.wall.as_nanos() as f64;
        }
        let total = (times * self.backlog) as f64;
        Ok(vec![
            Metric::new("cpu_per_datagram", "ns", cpu_ns / total),
            Metric::new("wall_per_datagram", "ns", wall_ns / total),
            Metric::new("throughput", "1/s", total / wall_ns * 1e9),
        ])
    }

    fn measure_one(
        &self,
        contestant: &Contestant,
        work: fn(Drain) -> io::Result<()>,
    ) -> io::Result<crate::harness::stopwatch::Elapsed> {
        let flood = Flood {
            marks: vec![0, self.backlog],
            pace: Pace::Backlog,
            call: SendCall::SendMmsg,
            size: SIZE,
            rate: None,
            window: u64::MAX,
        };
        let shared = shared::map()?;
        let socket = sockets::udp_socket()?;
        let kept = socket.try_clone()?;
        let target = Target::Udp(vec![v4(&socket)?]);
        let (generator, control) =
            generator::start(RECEIVER_CPU, |control| flood.run(target, shared, control))?;
        let backlog = Rc::new(Backlog::new(control, contestant.clock));
        let count = &shared.received[0].0;
        let tally = Tally::new(SIZE, &[self.backlog], u64::MAX, count, None);
        work(Drain { socket, tally, backlog: Rc::clone(&backlog), largest: 2048 })?;
        generator.join();
        let dropped = sockets::dropped_by_kernel(&kept)?;
        // A seal drops what comes after it: nothing does.
        if dropped > 0 {
            fail(&format!("the kernel dropped {dropped} datagrams: no buffer space in the socket"));
        }
        let delivered = count.load(Ordering::Acquire);
        if delivered != self.backlog {
            fail(&format!("{delivered} of {} datagrams were delivered", self.backlog));
        }
        Ok(backlog.elapsed())
    }
}
