//! [`Stopwatch`]: CPU and wall time of the measured phase.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};

use super::fail;

/// Whose CPU time counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Clock {
    /// The thread that receives: for contestants on one thread.
    Thread,
    /// The whole process: for contestants with threads of their own. The load generator is another
    /// process.
    #[cfg_attr(not(feature = "peers"), expect(dead_code, reason = "only peers have threads"))]
    Process,
}

/// What a stopwatch has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Elapsed {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    /// Time in which the receiver was ready to run and something else had its CPU. Zero for a whole
    /// process, for which the kernel does not report it.
    pub(crate) delayed: Duration,
    /// Times that the receiver went to sleep because it had nothing to do.
    pub(crate) sleeps: u64,
}

pub(crate) struct Stopwatch {
    clock: Clock,
    /// `None` while it does not run.
    running: Option<Elapsed>,
    /// When it was started, and later by as much as was excluded.
    wall: Instant,
    total: Elapsed,
}

impl Stopwatch {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, running: None, wall: Instant::now(), total: Elapsed::default() }
    }

    pub(crate) fn start(&mut self) {
        self.wall = Instant::now();
        self.running = Some(self.read());
    }

    pub(crate) fn stop(&mut self) {
        let now = self.read();
        let started = self.running.take().expect("it was started");
        self.total.cpu += now.cpu - started.cpu;
        self.total.wall += self.wall.elapsed();
        self.total.delayed += now.delayed - started.delayed;
        self.total.sleeps += now.sleeps - started.sleeps;
    }

    /// Takes the time of a wait out of the wall time; its CPU time counts.
    pub(crate) fn except(&mut self, wait: impl FnOnce()) {
        let (began, before) = (Instant::now(), self.read());
        wait();
        self.wall += began.elapsed();
        let delayed = self.read().delayed - before.delayed;
        if let Some(running) = &mut self.running {
            running.delayed += delayed;
        }
    }

    pub(crate) fn total(&self) -> Elapsed {
        assert!(self.running.is_none(), "a stopwatch is read when it was stopped");
        self.total
    }

    fn read(&self) -> Elapsed {
        let (clock, whose) = match self.clock {
            Clock::Thread => (ClockId::CLOCK_THREAD_CPUTIME_ID, UsageWho::RUSAGE_THREAD),
            Clock::Process => (ClockId::CLOCK_PROCESS_CPUTIME_ID, UsageWho::RUSAGE_SELF),
        };
        let usage = getrusage(whose).expect("the kernel has always had it");
        let cpu = clock_gettime(clock).expect("the kernel has always had it");
        Elapsed {
            cpu: cpu.into(),
            wall: Duration::ZERO,
            delayed: match self.clock {
                Clock::Thread => run_delay(),
                Clock::Process => Duration::ZERO,
            },
            sleeps: usage.voluntary_context_switches() as u64,
        }
    }
}

impl Elapsed {
    /// The share of the time in which the receiver had nothing to do: it was limited by the sender.
    pub(crate) fn idle_share(&self) -> f64 {
        1.0 - (self.cpu + self.delayed).div_duration_f64(self.wall).min(1.0)
    }

    /// The share of the time in which other work of the machine had the receiver's CPU.
    pub(crate) fn disturbed_share(&self) -> f64 {
        self.delayed.div_duration_f64(self.wall).min(1.0)
    }
}

/// The second number of `/proc/thread-self/schedstat` (proc(5)): time spent waiting for the CPU.
fn run_delay() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat")
        .unwrap_or_else(|error| fail(&format!("/proc/thread-self/schedstat: {error}")));
    let delay = text.split(' ').nth(1).and_then(|number| number.parse().ok());
    Duration::from_nanos(delay.unwrap_or_else(|| fail("schedstat has no second number")))
}
