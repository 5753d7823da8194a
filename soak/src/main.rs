//! The soak: runtimes on both drivers that open, drain, drop and hand over sockets all the time
//! while threads send to them, and a ledger that has to balance to the last datagram.
//!
//! ```text
//! sender threads -> board of open channels -> sockets of a runtime -> receivers -> accounts
//!                                             (a life: 0.1 to 1.5 s, then another runtime)
//! ```
//!
//! A channel is one receiving socket and all that is sent to it; a [`life`] is one runtime and its
//! channels, which are settled when it has ended: what was sent was delivered, or the report or the
//! kernel has counted it. From time to time all threads rest; descriptors and memory are then
//! compared from rest to rest.
//!
//! The seed decides what each thread does next, not how the threads interleave: it makes a run
//! similar, not equal.

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

/// Threads that send, from outside of the runtimes. Each life has one more sender, inside.
const SENDERS: usize = 3;

/// The drivers, with a thread each that makes one runtime after the other. Where io_uring is
/// refused, both are epoll.
const DRIVERS: [DriverChoice; 2] = [DriverChoice::Auto, DriverChoice::Epoll];

/// Rests during a run, the first and the last included.
const RESTS: u32 = 13;

/// After so long without any life that ended, the run is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Runs runtimes that open, drain, drop and hand over sockets while threads send to them. Ends with
/// 1 if something did not balance, grew, or got stuck.
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    /// How long it runs.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_minutes)]
    minutes: Duration,
    /// Decides what each thread does next; another one for each run unless given.
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
    /// True once everything is to end.
    stop: Arc<AtomicBool>,
    /// True while the runtimes' threads are asked to rest.
    rest: Arc<AtomicBool>,
    /// Where they meet this thread, twice for each rest.
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

    /// What the thread of a driver does: one life after the other, with a rest when asked to.
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

    /// Shows progress every second, and takes a sample at each rest.
    fn conduct(&self, time: Duration) -> Vec<Usage> {
        let start = Instant::now();
        // The first rest comes early: all that is set up once is, after some lives.
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
                self.totals.fail(format!("stuck: no life has ended for {STUCK:?}"));
                return rests;
            }
            if now >= next_rest {
                next_rest += pause;
                rests.push(self.sample());
                // A rest is no life, and must not count as being stuck.
                last_life = Instant::now();
            }
        }
        rests
    }

    /// Lets every runtime end, and looks at what the process holds while there is none.
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
                    totals.fail("a thread has panicked".to_owned());
                }
            }
        }
        println!("\nat rest, without any runtime:");
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
                println!("balanced to the last datagram; seed {seed}");
                ExitCode::SUCCESS
            }
            false => {
                println!("{} failures; seed {seed}", failures.len());
                ExitCode::FAILURE
            }
        }
    }
}

/// Keeps a thread that sends where it is. What it sends to UDP waits in the backlog of its
/// processor when that is busy; a thread that moved to another one meanwhile would overtake its own
/// datagrams in the kernel, before they are queued on any socket.
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
        totals.fail(format!("a thread cannot be kept on a processor: {error}"));
    }
}
