//! Echo servers: CPU time of an answer, throughput and latency.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::contestants::{Contestant, Echo, Work};
use crate::harness::cpu::GENERATOR_CPU;
use crate::harness::gate::{Gate, Pace};
use crate::harness::tally::EchoTally;
use crate::harness::{fail, generator, sockets};
use crate::load::echo_client::{Answers, EchoClient};
use crate::metric::Metric;

#[derive(Clone, Copy, Debug)]
pub(crate) struct EchoPlan {
    pub(crate) peers: usize,
    /// Most requests outstanding.
    pub(crate) outstanding: usize,
    /// Measured requests.
    pub(crate) requests: u64,
    /// Requests per second: an open loop.
    pub(crate) rate: Option<u64>,
    /// Whether contestants may answer one peer with trains, and the client sends in trains.
    pub(crate) coalesced: bool,
}

const SIZE: usize = 64;

/// Requests before the measured ones.
const WARM: u64 = 2_048;

impl EchoPlan {
    /// A closed loop of so many peers with one request each.
    pub(crate) const fn closed(outstanding: usize) -> Self {
        let requests = if outstanding == 1 { 8_192 } else { 49_152 };
        Self { peers: outstanding, outstanding, requests, rate: None, coalesced: false }
    }

    /// The function of the contestant that does it.
    pub(crate) fn work(&self, contestant: &Contestant) -> Work<Echo> {
        if self.coalesced { contestant.echo_coalesced } else { contestant.echo }
    }

    pub(crate) fn measure(
        &self,
        contestant: &Contestant,
        work: fn(Echo) -> io::Result<()>,
        scale: f64,
    ) -> io::Result<Vec<Metric>> {
        let requests = ((self.requests as f64 * scale) as u64).max(1);
        let client = EchoClient {
            peers: self.peers,
            outstanding: self.outstanding,
            size: SIZE,
            warm: WARM,
            total: WARM + requests,
            rate: self.rate,
            trains: self.coalesced,
        };
        let socket = sockets::udp_socket()?;
        let address = sockets::address(&socket)?;
        let kept = socket.try_clone()?;
        let (generator, control) = generator::start(GENERATOR_CPU, |mut control| {
            let answers = client.run(address)?;
            control.write_all(&encode(answers))
        })?;
        let mut results = control.try_clone()?;
        let gate = Arc::new(Gate::new(Pace::Seamless, 1, 1, contestant.clock, control));
        let tally = EchoTally::new(SIZE, client.warm, client.total, Arc::clone(&gate));
        work(Echo { socket, tally, largest: 2048 })?;

        let answers = decode(&mut results);
        generator.join();
        let dropped = sockets::dropped_by_kernel(&kept)?;
        if dropped > 0 {
            fail(&format!("the kernel dropped {dropped} requests: no buffer space in the socket"));
        }
        let elapsed = gate.measured().elapsed;
        let cpu_ns = elapsed.cpu.as_nanos() as f64;
        Ok(vec![
            Metric::new("cpu_per_echo", "ns", cpu_ns / requests as f64),
            Metric::new("throughput", "1/s", answers.per_second),
            Metric::new("p50", "us", answers.p50_us),
            Metric::new("p99", "us", answers.p99_us),
            Metric::new("p99.9", "us", answers.p999_us),
            Metric::new("idle_share", "1", elapsed.idle_share()),
            Metric::new("disturbed_share", "1", elapsed.disturbed_share()),
            Metric::new("sleeps_per_1000", "1", elapsed.sleeps as f64 / requests as f64 * 1000.0),
        ])
    }
}

fn encode(answers: Answers) -> Vec<u8> {
    let Answers { p50_us, p99_us, p999_us, per_second } = answers;
    [p50_us, p99_us, p999_us, per_second].iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn decode(results: &mut UnixStream) -> Answers {
    let mut next = || {
        let mut bytes = [0; 8];
        match results.read_exact(&mut bytes) {
            Ok(()) => f64::from_le_bytes(bytes),
            Err(error) => fail(&format!("the client returned no result: {error}")),
        }
    };
    Answers { p50_us: next(), p99_us: next(), p999_us: next(), per_second: next() }
}
