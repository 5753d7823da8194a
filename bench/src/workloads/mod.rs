//! The workloads: what is measured. Each is a row of [`all`], and a [`Kind`] with its sizes.

mod drain;
mod echo;
mod exit;
mod micro;
mod sink;

use std::io;

use crate::contestants::{self, Contestant, ExitBy, Gro};
use crate::load::flood::SendCall;
use crate::metric::Metric;
use drain::DrainPlan;
use echo::EchoPlan;
use exit::ExitPlan;
use micro::{MicroPlan, Operation};
use sink::{Family, SinkPlan};

#[derive(Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// One line for tables and plots.
    pub(crate) about: &'static str,
    /// The plot that it belongs to.
    pub(crate) group: &'static str,
    /// The metric that the ratios and the plot are of. Lower is better.
    pub(crate) metric: &'static str,
    pub(crate) unit: &'static str,
    /// The hand-written loops that it is compared with: the best of them in each round.
    pub(crate) hand_written: &'static [&'static str],
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Sink(SinkPlan),
    Echo(EchoPlan),
    Drain(DrainPlan),
    Exit(ExitPlan),
    Micro(MicroPlan),
}

impl Workload {
    /// Whether the contestant can do it.
    pub(crate) fn is_offered_by(&self, contestant: &Contestant) -> bool {
        match &self.kind {
            Kind::Sink(plan) => plan.work(contestant).is_some(),
            Kind::Echo(plan) => plan.work(contestant).is_some(),
            Kind::Drain(_) => contestant.drain.is_some(),
            Kind::Exit(_) => contestant.exit.is_some(),
            Kind::Micro(plan) => plan.is_offered_by(contestant),
        }
    }

    /// Measures it, in this process, which does nothing else afterwards. `scale` is the share of
    /// the datagrams, echoes or batches that is measured.
    pub(crate) fn measure(
        &self,
        contestant: &Contestant,
        scale: f64,
    ) -> Option<io::Result<Vec<Metric>>> {
        Some(match &self.kind {
            Kind::Sink(plan) => plan.measure(contestant, plan.work(contestant)?, scale),
            Kind::Echo(plan) => plan.measure(contestant, plan.work(contestant)?, scale),
            Kind::Drain(plan) => plan.measure(contestant, contestant.drain?, scale),
            Kind::Exit(plan) => plan.measure(contestant, contestant.exit?),
            Kind::Micro(plan) => plan.measure(contestant, scale)?,
        })
    }
}

const RAW_RING: &[&str] = &["raw-ring"];
const ECHO_LOOPS: &[&str] = &["raw-ring", "epoll-mmsg"];

fn sink(name: &'static str, about: &'static str, plan: SinkPlan) -> Workload {
    let (metric, kind) = ("cpu_per_datagram", Kind::Sink(plan));
    Workload { name, about, group: "sink", metric, unit: "ns", hand_written: RAW_RING, kind }
}

fn echo(name: &'static str, about: &'static str, plan: EchoPlan) -> Workload {
    let (metric, kind) = ("cpu_per_echo", Kind::Echo(plan));
    Workload { name, about, group: "echo", metric, unit: "ns", hand_written: ECHO_LOOPS, kind }
}

fn micro(name: &'static str, about: &'static str, plan: MicroPlan) -> Workload {
    let (metric, kind) = ("cpu_per_operation", Kind::Micro(plan));
    Workload { name, about, group: "runtime", metric, unit: "ns", hand_written: &[], kind }
}

fn exit(name: &'static str, about: &'static str, by: ExitBy) -> Workload {
    let kind = Kind::Exit(ExitPlan { by, before: 40_000, window: 4_096 });
    let (metric, unit) = ("lost", "datagrams");
    Workload { name, about, group: "exit", metric, unit, hand_written: &[], kind }
}

/// All workloads, in the order in which they are run and shown.
pub(crate) fn all() -> Vec<Workload> {
    use sink::{BACKLOG, COLD, LIVE};
    vec![
        sink("sink-backlog-64", "1 socket, queue filled beforehand, 64 bytes", BACKLOG),
        sink(
            "sink-backlog-1200",
            "1 socket, queue filled beforehand, 1200 bytes",
            SinkPlan { size: 1200, ..BACKLOG },
        ),
        sink("sink-backlog-cold", "1 socket, a deep queue filled by the other CPU, 64 bytes", COLD),
        sink("sink-live-sendmmsg", "1 socket, live sender by sendmmsg, 64 bytes", LIVE),
        sink(
            "sink-live-gso",
            "1 socket, live sender by GSO, GRO off, 64 bytes",
            SinkPlan { call: SendCall::Gso, gro: Gro::Off, per_stage: 262_144, ..LIVE },
        ),
        sink(
            "sink-100",
            "100 sockets in turn, live sender by sendmmsg, 64 bytes",
            SinkPlan { active: 100, window: 128, ..LIVE },
        ),
        sink(
            "sink-10000",
            "10 000 sockets, 10 of them active, live sender by sendmmsg, 64 bytes",
            SinkPlan { active: 10, idle: 9_990, window: 1_024, ..LIVE },
        ),
        sink(
            "sink-50k",
            "1 socket, 50 000 datagrams per second, 64 bytes",
            SinkPlan { call: SendCall::Send, rate: Some(50_000), per_stage: 20_000, ..LIVE },
        ),
        Workload {
            hand_written: &["raw-ring-gro"],
            ..sink(
                "sink-gro",
                "1 socket with GRO, live sender by GSO, 64 bytes",
                SinkPlan {
                    call: SendCall::Gso,
                    gro: Gro::On,
                    per_stage: 524_288,
                    window: 16_384,
                    ..LIVE
                },
            )
        },
        Workload {
            group: "unix",
            ..sink(
                "unix-sink",
                "1 Unix datagram socket, live sender, 64 bytes",
                SinkPlan { family: Family::Unix, call: SendCall::Send, per_stage: 65_536, ..LIVE },
            )
        },
        echo("echo-1", "1 request outstanding", EchoPlan { peers: 1, ..EchoPlan::closed(1) }),
        echo("echo-16", "16 outstanding, each of a peer of its own", EchoPlan::closed(16)),
        echo("echo-64", "64 outstanding, each of a peer of its own", EchoPlan::closed(64)),
        Workload {
            hand_written: &["raw-ring", "raw-ring-gro", "epoll-mmsg", "epoll-mmsg-gro"],
            ..echo(
                "echo-64-coalesced",
                "64 outstanding of one peer, which sends by GSO",
                EchoPlan { peers: 1, coalesced: true, ..EchoPlan::closed(64) },
            )
        },
        echo(
            "echo-rate-20k",
            "20 000 requests per second of 16 peers, open loop",
            EchoPlan { peers: 16, rate: Some(20_000), requests: 8_000, ..EchoPlan::closed(256) },
        ),
        Workload {
            name: "drain",
            about: "shutdown with 32 768 datagrams queued, all of them delivered",
            group: "exit",
            metric: "cpu_per_datagram",
            unit: "ns",
            hand_written: &["epoll-mmsg"],
            kind: Kind::Drain(DrainPlan { backlog: 32_768, times: 3 }),
        },
        exit(
            "exit-loss",
            "the program returns while a sender floods: queued, never delivered",
            ExitBy::Return,
        ),
        exit(
            "exit-loss-sigterm",
            "SIGTERM comes while a sender floods: queued, never delivered",
            ExitBy::Signal,
        ),
        micro(
            "spawn",
            "spawn and join a task that does nothing",
            MicroPlan { operation: Operation::Spawn, batch: 1_000, batches: 500 },
        ),
        micro(
            "yield",
            "yield once, a task alone",
            MicroPlan { operation: Operation::Yield, batch: 10_000, batches: 100 },
        ),
        micro(
            "wake",
            "a sleeping task is woken by another thread",
            MicroPlan { operation: Operation::Wake, batch: 1_000, batches: 10 },
        ),
        micro(
            "timers",
            "arm and cancel a timer of 1 to 60 seconds, a million of them",
            MicroPlan { operation: Operation::Timers, batch: 100_000, batches: 10 },
        ),
        Workload {
            name: "idle-memory",
            about: "memory of a socket that is listened to and gets nothing",
            group: "memory",
            metric: "resident_per_socket",
            unit: "B",
            hand_written: &[],
            kind: Kind::Sink(SinkPlan { idle: 9_999, per_stage: 1_024, ..LIVE }),
        },
    ]
}

/// The workload of that name.
pub(crate) fn find(name: &str) -> Option<Workload> {
    all().into_iter().find(|workload| workload.name == name)
}

/// The workload of that name, for an argument.
pub(crate) fn parse(name: &str) -> Result<Workload, &'static str> {
    find(name).ok_or("no workload has this name (see `list`)")
}

/// The workloads, with the contestants of this build that offer them, for other programs.
pub(crate) fn to_json() -> serde_json::Value {
    let contestants = contestants::all();
    let workload = |workload: &Workload| {
        let offers = contestants.iter().filter(|contestant| workload.is_offered_by(contestant));
        let names: Vec<&str> = offers.map(|contestant| contestant.name).collect();
        serde_json::json!({
            "workload": workload.name,
            "about": workload.about,
            "metric": workload.metric,
            "unit": workload.unit,
            "contestants": names,
        })
    };
    all().iter().map(workload).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_descriptions_fit_into_a_panel() {
        let all = all();
        for workload in &all {
            let same = all.iter().filter(|other| other.name == workload.name);
            assert_eq!(same.count(), 1, "{}", workload.name);
            assert!(workload.about.len() <= 70, "{}", workload.about);
        }
    }

    #[test]
    fn every_workload_is_offered_by_its_loops_and_by_ebbtide() {
        for workload in all() {
            for name in workload.hand_written.iter().chain(&["ebbtide", "ebbtide-epoll"]) {
                let contestant = contestants::find(name).unwrap();
                assert!(workload.is_offered_by(contestant), "{} by {name}", workload.name);
            }
        }
    }
}
