//! The soak: runtimes on both drivers open, drain, drop and hand over sockets while threads send to
//! them. The counts must balance to the last datagram.
//!
//! ```text
//! sender threads -> board of open channels -> sockets of a runtime -> receivers -> accounts
//!                                             (a life: 0.1 to 1.5 s, then another runtime)
//! ```
//!
//! A channel is one receiving socket and everything that is sent to it. A [`life`] is one runtime
//! and its channels. It is settled when the runtime has ended: what was sent was delivered, or it
//! is counted by the report or by the kernel. From time to time all threads rest. Descriptors and
//! memory are compared between the rests.
//!
//! The seed decides what each thread does next, not how the threads interleave. So a run can be
//! repeated similarly, not exactly.

mod account;
mod board;
mod kernel;
mod life;
mod random;
mod receiver;
mod sender;
mod totals;
mod usage;

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use ebbtide::{DriverChoice, Runtime};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use self::board::Board;
use self::life::Life;
use self::random::Random;
use self::totals::Totals;
use self::usage::Usage;

/// The number of threads that send from outside of the runtimes. Each life has one more sender
/// inside.
const SENDERS: usize = 3;

/// The drivers. One thread for each makes runtimes, one after the other. If io_uring is refused,
/// both are epoll.
const DRIVERS: [DriverChoice; 2] = [DriverChoice::Auto, DriverChoice::Epoll];

/// The number of rests in a run, with the first and the last.
const RESTS: u32 = 13;

/// If no life ends for this long, the run is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Runs runtimes that open, drain, drop and hand over sockets while threads send to them. Exits
/// with 1 if the counts do not balance, if something has grown, or if the run is stuck.
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    /// The duration of the run in minutes.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_minutes)]
    minutes: Duration,
    /// Decides what each thread does next. Without it, each run uses another seed.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = args.seed.unwrap_or(u64::from(now.subsec_nanos()));
    println!("soak: {:?}, seed {seed}", args.minutes);
    let softnet = kernel::backlog_drops();
    let soak = Soak::start(seed);
    let rests = soak.conduct(args.minutes);
    soak.summary(seed, &rests, kernel::backlog_drops() - softnet)
}

fn parse_minutes(text: &str) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let minutes: f64 = text.parse()?;
    Ok(Duration::try_from_secs_f64(60.0 * minutes)?)
}

/// What all threads share.
struct Soak {
    board: Arc<Board>,
    totals: Arc<Totals>,
    /// True once all threads should end.
    stop: Arc<AtomicBool>,
    /// True while the threads of the runtimes should rest.
    rest: Arc<AtomicBool>,
    /// Where those threads meet this one, twice for each rest.
    meeting: Arc<Barrier>,
    runtimes: Vec<thread::JoinHandle<()>>,
    senders: Vec<thread::JoinHandle<()>>,
}

impl Soak {
    fn start(seed: u64) -> Self {
        let mut soak = Self {
            board: Arc::default(),
            totals: Arc::default(),
            stop: Arc::default(),
            rest: Arc::default(),
            meeting: Arc::new(Barrier::new(DRIVERS.len() + 1)),
            runtimes: Vec::new(),
            senders: Vec::new(),
        };
        for sender in 0..SENDERS {
            let random = Random::new(seed.wrapping_add(1_000 + sender as u64));
            let (board, totals) = (Arc::clone(&soak.board), Arc::clone(&soak.totals));
            let stop = Arc::clone(&soak.stop);
            soak.senders.push(thread::spawn(move || {
                stay_on_a_processor(sender, &totals);
                sender::run(sender, random, &board, &totals, &stop);
            }));
        }
        for (index, driver) in DRIVERS.into_iter().enumerate() {
            let random = Random::new(seed.wrapping_add(index as u64));
            soak.runtimes.push(thread::spawn(soak.lives(index, driver, random)));
        }
        soak
    }

    /// The thread of a driver: one life after the other, and a rest when it is requested.
    fn lives(
        &self,
        index: usize,
        driver: DriverChoice,
        mut random: Random,
    ) -> impl FnOnce() + use<> {
        let (board, totals) = (Arc::clone(&self.board), Arc::clone(&self.totals));
        let (stop, rest) = (Arc::clone(&self.stop), Arc::clone(&self.rest));
        let meeting = Arc::clone(&self.meeting);
        move || {
            stay_on_a_processor(index, &totals);
            match Runtime::builder().driver(driver).build() {
                Ok(runtime) => println!("soak: a thread on {}", runtime.driver()),
                Err(error) => totals.fail(format!("no runtime: {error}")),
            }
            while !stop.load(Ordering::SeqCst) {
                Life::live(driver, &mut random, &board, &totals);
                if rest.load(Ordering::SeqCst) {
                    meeting.wait();
                    meeting.wait();
                }
            }
        }
    }

    /// Prints the progress every second, and takes a sample at each rest.
    fn conduct(&self, time: Duration) -> Vec<Usage> {
        let start = Instant::now();
        // The first rest is early, but after some lives, when everything that is set up once has
        // been.
        let pause = time / RESTS;
        let mut rests = Vec::new();
        let mut next_rest = start + pause;
        let mut next_progress = start;
        let (mut lives, mut last_life) = (0, start);
        while rests.len() < RESTS as usize {
            thread::sleep(Duration::from_millis(50));
            let now = Instant::now();
            if now >= next_progress {
                next_progress += Duration::from_secs(1);
                println!(
                    "{:6.0} s  {}  {}",
                    start.elapsed().as_secs_f64(),
                    self.totals,
                    Usage::now()
                );
            }
            if lives < self.totals.lives() {
                (lives, last_life) = (self.totals.lives(), now);
            } else if now - last_life > STUCK {
                self.totals.fail(format!("stuck: no runtime has ended for {STUCK:?}"));
                return rests;
            }
            if now >= next_rest {
                next_rest += pause;
                rests.push(self.sample());
                // No life ends during a rest, which does not count as being stuck.
                last_life = Instant::now();
            }
        }
        rests
    }

    /// Lets every runtime end, and samples what the process holds without one.
    fn sample(&self) -> Usage {
        self.rest.store(true, Ordering::SeqCst);
        self.meeting.wait();
        let usage = Usage::now();
        self.rest.store(false, Ordering::SeqCst);
        self.meeting.wait();
        usage
    }

    fn summary(self, seed: u64, rests: &[Usage], backlog_drops: u64) -> ExitCode {
        self.stop.store(true, Ordering::SeqCst);
        let totals = &self.totals;
        if !totals.is_stuck() {
            for thread in self.runtimes.into_iter().chain(self.senders) {
                if thread.join().is_err() {
                    totals.fail("a thread panicked".to_owned());
                }
            }
        }
        println!("\nat rest, without a runtime:");
        for (index, usage) in rests.iter().enumerate() {
            println!("{index:4}  {usage}");
        }
        if let Some(grown) = Usage::growth(rests) {
            totals.fail(grown);
        }
        totals.check_missing(backlog_drops);
        println!("\n{}", totals.summary(backlog_drops));
        let failures = totals.failures();
        for failure in &failures {
            println!("FAILED: {failure}");
        }
        match failures.is_empty() {
            true => {
                println!("every datagram is accounted for; seed {seed}");
                ExitCode::SUCCESS
            }
            false => {
                println!("{} failures; seed {seed}", failures.len());
                ExitCode::FAILURE
            }
        }
    }
}

/// Pins a thread that sends to one CPU. What it sends over UDP may wait in the backlog of that CPU.
/// If the thread moved to another CPU, its next datagrams could overtake those in the kernel,
/// before they are queued on a socket.
fn stay_on_a_processor(index: usize, totals: &Totals) {
    let this_thread = Pid::from_raw(0);
    let pinned = sched_getaffinity(this_thread).and_then(|allowed| {
        let mut processors: Vec<usize> = Vec::new();
        for processor in 0..CpuSet::count() {
            if allowed.is_set(processor)? {
                processors.push(processor);
            }
        }
        let mut one = CpuSet::new();
        one.set(processors[index % processors.len()])?;
        sched_setaffinity(this_thread, &one)
    });
    if let Err(error) = pinned {
        totals.fail(format!("a thread cannot be pinned to a CPU: {error}"));
    }
}
