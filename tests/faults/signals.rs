//! A storm of signals: 10 000 a second, to the thread of the runtime, whose handler does not ask for
//! interrupted calls to be made again.

// UNSAFETY: timers and signal handlers have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::mem;
use std::net::SocketAddr;
use std::os::unix::net;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ebbtide::net::{UnixAddr, UnixDatagram};
use ebbtide::{Drain, DrainOutcome};

use crate::child::in_a_child;
use crate::faults::Watchdog;
use crate::program;
use crate::support::{Ledger, Shape, numbered};

/// One signal in so many nanoseconds: 10 kHz.
const PERIOD_NS: i64 = 100_000;

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Signals to the thread that made it, until it is dropped.
struct Storm(libc::timer_t);

impl Storm {
    fn new() -> Self {
        // SAFETY: an all-zero sigaction is valid. No SA_RESTART.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = count as *const () as usize;
        // SAFETY: the handler lives for ever, and touches an atomic only.
        let result = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) };
        assert_eq!(result, 0);

        // SAFETY: an all-zero sigevent is valid.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGALRM;
        // SAFETY: takes nothing.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers name what lives until the call returns.
        let result =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        assert_eq!(result, 0);
        let period = libc::timespec { tv_sec: 0, tv_nsec: PERIOD_NS };
        let setting = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: the timer was just made; the setting lives until the call returns.
        let result = unsafe { libc::timer_settime(timer, 0, &raw const setting, ptr::null_mut()) };
        assert_eq!(result, 0);
        Self(timer)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // SAFETY: the timer is ours.
        unsafe { libc::timer_delete(self.0) };
    }
}

#[test]
fn a_busy_program_in_a_storm_of_signals_loses_nothing() {
    in_a_child("signals::a_busy_program_in_a_storm_of_signals_loses_nothing", || {
        let _watchdog = Watchdog::new("a storm");
        let _storm = Storm::new();
        for (seed, shape) in (0..).zip(Shape::ALL.into_iter().cycle()).take(40) {
            let run = format!("{}, seed {seed}", shape.name);
            program::run::<UnixAddr>(shape, seed).check(&[], &run);
            program::run::<SocketAddr>(shape, seed).check(&[], &run);
        }
        assert!(SIGNALS.load(Ordering::Relaxed) > 0, "there was no storm");
        println!("note: {SIGNALS:?} signals");
    });
}

/// It sleeps, and is woken by signals far more often than by datagrams.
#[test]
fn an_idle_program_in_a_storm_of_signals_loses_nothing() {
    in_a_child("signals::an_idle_program_in_a_storm_of_signals_loses_nothing", || {
        const DATAGRAMS: u64 = 100;
        let _watchdog = Watchdog::new("a storm");
        for shape in Shape::ALL {
            let (sender, receiver) = net::UnixDatagram::pair().unwrap();
            let sending = thread::spawn(move || {
                for number in 0..DATAGRAMS {
                    // So that the receiver sleeps meanwhile; what it receives does not depend on it.
                    thread::sleep(Duration::from_millis(1));
                    sender.send(&numbered(0, number, 100)).unwrap();
                }
            });
            let _storm = Storm::new();
            let runtime = shape.runtime();
            let ledger = runtime.block_on(async {
                let receiver = UnixDatagram::from_std(receiver).unwrap();
                let mut ledger = Ledger::default();
                while ledger.received < DATAGRAMS {
                    ledger.enter(&receiver.recv().await.unwrap().expect("not drained"));
                }
                ledger
            });
            let report = runtime.shutdown(Drain::default().quiesce(true));
            assert_eq!(ledger.holes, 0, "{}", shape.name);
            assert_eq!(report.outcome, DrainOutcome::Complete, "{}: {report}", shape.name);
            sending.join().unwrap();
        }
        assert!(SIGNALS.load(Ordering::Relaxed) > 100, "there was no storm");
    });
}
