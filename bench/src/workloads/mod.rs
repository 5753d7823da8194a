//! The workloads: what is measured. Each is a row of [`all`], and a [`Kind`] with its sizes.

mod echo;
mod sink;

use std::io;

use crate::contestants::Contestant;
use crate::load::flood::Way;
use crate::metric::Metric;
pub(crate) use echo::EchoPlan;
pub(crate) use sink::{Family, SinkPlan};

pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// One line for tables and plots.
    pub(crate) about: &'static str,
    /// The plot that it belongs to.
    pub(crate) group: &'static str,
    /// The metric that the ratios and the plot are of. Lower is better.
    pub(crate) metric: &'static str,
    /// The loops by hand that are the limit: the best of them in each round.
    pub(crate) limits: &'static [&'static str],
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Sink(SinkPlan),
    Echo(EchoPlan),
}

impl Workload {
    /// Whether the contestant can do it.
    pub(crate) fn is_offered_by(&self, contestant: &Contestant) -> bool {
        match &self.kind {
            Kind::Sink(plan) => plan.work(contestant).is_some(),
            Kind::Echo(plan) => plan.work(contestant).is_some(),
        }
    }

    /// Measures it, in this process, which does nothing else afterwards. `scale` of the datagrams.
    pub(crate) fn measure(
        &self,
        contestant: &Contestant,
        scale: f64,
    ) -> Option<io::Result<Vec<Metric>>> {
        match &self.kind {
            Kind::Sink(plan) => {
                let work = plan.work(contestant)?;
                Some(plan.measure(contestant, work, scale))
            }
            Kind::Echo(plan) => {
                let work = plan.work(contestant)?;
                Some(plan.measure(contestant, work, scale))
            }
        }
    }
}

const LIMIT: &[&str] = &["limit"];
/// The better of two loops by hand.
const ECHO_LIMITS: &[&str] = &["limit", "epoll-mmsg"];

fn sink(name: &'static str, about: &'static str, plan: SinkPlan) -> Workload {
    let (metric, kind) = ("cpu_per_datagram", Kind::Sink(plan));
    Workload { name, about, group: "sink", metric, limits: LIMIT, kind }
}

fn echo(name: &'static str, about: &'static str, plan: EchoPlan) -> Workload {
    let (metric, kind) = ("cpu_per_echo", Kind::Echo(plan));
    Workload { name, about, group: "echo", metric, limits: ECHO_LIMITS, kind }
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
            "1 socket, live sender by GSO, 64 bytes",
            SinkPlan { way: Way::Gso, per_stage: 262_144, ..LIVE },
        ),
        sink(
            "sink-100",
            "100 sockets in turn, live sender by sendmmsg, 64 bytes",
            SinkPlan { active: 100, window: 128, ..LIVE },
        ),
        Workload {
            group: "unix",
            ..sink(
                "unix-sink",
                "1 Unix datagram socket, live sender, 64 bytes",
                SinkPlan { family: Family::Unix, way: Way::Send, per_stage: 65_536, ..LIVE },
            )
        },
        echo("echo-1", "1 request outstanding", EchoPlan { peers: 1, ..EchoPlan::closed(1) }),
        echo("echo-16", "16 outstanding, each of a peer of its own", EchoPlan::closed(16)),
        echo("echo-64", "64 outstanding, each of a peer of its own", EchoPlan::closed(64)),
        echo(
            "echo-64-coalesced",
            "64 outstanding of one peer, which sends by GSO",
            EchoPlan { peers: 1, coalesced: true, ..EchoPlan::closed(64) },
        ),
        echo(
            "echo-rate-20k",
            "20 000 requests per second of 16 peers, open loop",
            EchoPlan { peers: 16, rate: Some(20_000), requests: 8_000, ..EchoPlan::closed(256) },
        ),
    ]
}

/// The workload of that name.
pub(crate) fn find(name: &str) -> Option<Workload> {
    all().into_iter().find(|workload| workload.name == name)
}
