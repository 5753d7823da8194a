//! Sinks: CPU time of receiving and looking at a datagram.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use crate::contestants::{Contestant, Gro, Sink, Work};
use crate::harness::cpu::{GENERATOR_CPU, RECEIVER_CPU};
use crate::harness::gate::{Gate, Measured, Pace};
use crate::harness::memory::resident_bytes;
use crate::harness::tally::Tally;
use crate::harness::{fail, generator, shared, sockets};
use crate::load::flood::{Flood, SendCall, Target};
use crate::metric::Metric;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    Udp,
    Unix,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct SinkPlan {
    pub(crate) family: Family,
    /// Sockets that receive.
    pub(crate) active: usize,
    /// Sockets that do not.
    pub(crate) idle: usize,
    pub(crate) size: usize,
    pub(crate) pace: Pace,
    pub(crate) call: SendCall,
    pub(crate) sender_cpu: usize,
    /// Datagrams of the warm-up, of all sockets together.
    pub(crate) warm: u64,
    /// Datagrams of a measured stage, of all sockets together.
    pub(crate) per_stage: u64,
    pub(crate) stages: u64,
    /// Datagrams per second. `None`: as fast as the sender can.
    pub(crate) rate: Option<u64>,
    /// Most datagrams that wait in one socket while the sender is live.
    pub(crate) window: u64,
    pub(crate) gro: Gro,
}

/// The queue of one socket is filled beforehand, again and again.
///
/// The sender fills it on the receiver's CPU, while the receiver sleeps, with no more than a cache
/// holds. So what is measured is the loop. In a queue that is deep, or filled by another CPU, most
/// of the cost is cache misses in the kernel, which all contestants pay and which hide the loop:
/// [`COLD`] and the live sinks show that.
pub(crate) const BACKLOG: SinkPlan = SinkPlan {
    family: Family::Udp,
    active: 1,
    idle: 0,
    size: 64,
    pace: Pace::Backlog,
    call: SendCall::SendMmsg,
    sender_cpu: RECEIVER_CPU,
    warm: 4_096,
    per_stage: 1_024,
    stages: 192,
    rate: None,
    window: 8_192,
    gro: Gro::AsDefault,
};

/// A deep queue, filled by the other CPU.
pub(crate) const COLD: SinkPlan =
    SinkPlan { sender_cpu: GENERATOR_CPU, per_stage: 16_384, stages: 8, ..BACKLOG };

/// A sender runs on the other CPU.
pub(crate) const LIVE: SinkPlan = SinkPlan {
    pace: Pace::Live,
    sender_cpu: GENERATOR_CPU,
    per_stage: 131_072,
    stages: 1,
    ..BACKLOG
};

impl SinkPlan {
    /// The function of the contestant that does it.
    pub(crate) fn work(&self, contestant: &Contestant) -> Work<Sink> {
        match self.family {
            Family::Unix => contestant.unix_sink,
            Family::Udp if self.gro == Gro::On => contestant.sink_gro,
            Family::Udp => contestant.sink,
        }
    }

    pub(crate) fn measure(
        &self,
        contestant: &Contestant,
        work: fn(Sink) -> io::Result<()>,
        scale: f64,
    ) -> io::Result<Vec<Metric>> {
        let marks = self.marks(scale);
        let flood = Flood {
            marks: marks.clone(),
            pace: self.pace,
            call: self.call,
            size: self.size,
            rate: self.rate,
            window: self.window,
        };
        let shared = shared::map()?;
        let (receivers, target) = self.sockets()?;
        let (generator, control) =
            generator::start(self.sender_cpu, |control| flood.run(target, shared, control))?;
        let stages = marks.len() - 1;
        let gate = Gate::new(self.pace, self.active, stages, contestant.clock, control);
        let gate = Arc::new(gate);

        // For the drop counters, which are read when the contestant has closed its own.
        let kept: Vec<Socket> =
            receivers.iter().map(Socket::try_clone).collect::<io::Result<_>>()?;
        let active: Vec<(Socket, Tally)> = receivers
            .into_iter()
            .zip(&shared.received)
            .map(|(socket, slot)| {
                let window = if self.pace == Pace::Backlog { u64::MAX } else { self.window };
                let gate = Arc::clone(&gate);
                (socket, Tally::new(self.size, &marks, window, &slot.0, Some(gate)))
            })
            .collect();
        let idle = sockets::udp_receivers(self.idle)?;
        let before = resident_bytes();
        work(Sink { active, idle, gro: self.gro, largest: 2048 })?;
        generator.join();

        self.check_drops(&kept)?;
        let total = (marks[stages] - marks[0]) * self.active as u64;
        Ok(self.metrics(gate.measured(), total, before))
    }

    /// The counts, per socket, at which stages end.
    fn marks(&self, scale: f64) -> Vec<u64> {
        let each = |total: u64| (total / self.active as u64).max(1);
        let stages = ((self.stages as f64 * scale).round() as u64).max(1);
        let per_stage = match self.stages {
            1 => (self.per_stage as f64 * scale) as u64,
            _ => self.per_stage,
        };
        (0..=stages).map(|stage| each(self.warm) + stage * each(per_stage)).collect()
    }

    fn sockets(&self) -> io::Result<(Vec<Socket>, Target)> {
        match self.family {
            Family::Udp => {
                let receivers = sockets::udp_receivers(self.active)?;
                let addresses = receivers.iter().map(v4).collect::<io::Result<_>>()?;
                Ok((receivers, Target::Udp(addresses)))
            }
            Family::Unix => {
                let (receiver, sender) = Socket::pair(Domain::UNIX, Type::DGRAM, None)?;
                receiver.set_nonblocking(true)?;
                Ok((vec![receiver], Target::Unix(OwnedFd::from(sender))))
            }
        }
    }

    fn check_drops(&self, kept: &[Socket]) -> io::Result<()> {
        if self.family == Family::Udp {
            for socket in kept {
                let dropped = sockets::dropped_by_kernel(socket)?;
                if dropped > 0 {
                    fail(&format!(
                        "the kernel dropped {dropped} datagrams: no buffer space in a socket"
                    ));
                }
            }
        }
        Ok(())
    }

    fn metrics(&self, measured: Measured, total: u64, before: u64) -> Vec<Metric> {
        let elapsed = measured.elapsed;
        let per = |value: f64| value / total as f64;
        let cpu_ns = elapsed.cpu.as_nanos() as f64;
        let wall_ns = elapsed.wall.as_nanos() as f64;
        let resident = measured.resident.saturating_sub(before) as f64;
        let mut metrics = vec![
            Metric::new("cpu_per_datagram", "ns", per(cpu_ns)),
            Metric::new("wall_per_datagram", "ns", per(wall_ns)),
            // Above zero: the receiver waited for the sender.
            Metric::new("idle_share", "1", elapsed.idle_share()),
            Metric::new("disturbed_share", "1", elapsed.disturbed_share()),
            Metric::new("sleeps_per_1000", "1", per(elapsed.sleeps as f64) * 1000.0),
            Metric::new("resident", "MiB", resident / f64::from(1 << 20)),
        ];
        if self.idle > 0 {
            let sockets = (self.idle + self.active) as f64;
            metrics.push(Metric::new("resident_per_socket", "B", resident / sockets));
        }
        metrics
    }
}

/// The address of a UDP socket that is bound to IPv4.
pub(super) fn v4(socket: &Socket) -> io::Result<SocketAddrV4> {
    match sockets::address(socket)? {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(io::Error::other("not bound to IPv4")),
    }
}
