//! What a runtime does without sockets: spawn, yield, wake, time.

use std::future::poll_fn;
use std::hint;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::thread;

use parking_lot::Mutex;

use crate::contestants::{Contestant, Micro, Task, Work};
use crate::harness::cpu::{GENERATOR_CPU, pin};
use crate::harness::fail;
use crate::harness::stopwatch::{Elapsed, Stopwatch};
use crate::metric::Metric;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Spawn,
    Yield,
    Timers,
    /// A task that sleeps is woken by another thread, again and again.
    Wake,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct MicroPlan {
    pub(crate) operation: Operation,
    pub(crate) batch: u64,
    pub(crate) batches: u64,
}

impl MicroPlan {
    pub(crate) fn is_offered_by(&self, contestant: &Contestant) -> bool {
        match self.operation {
            Operation::Wake => contestant.run_task.is_some(),
            _ => self.work(contestant).is_some(),
        }
    }

    fn work(&self, contestant: &Contestant) -> Work<Micro> {
        match self.operation {
            Operation::Spawn => contestant.spawn,
            Operation::Yield => contestant.yields,
            Operation::Timers => contestant.timers,
            Operation::Wake => None,
        }
    }

    pub(crate) fn measure(
        &self,
        contestant: &Contestant,
        scale: f64,
    ) -> Option<io::Result<Vec<Metric>>> {
        let batches = ((self.batches as f64 * scale) as u64).max(1);
        let watch = Stopwatch::new(contestant.clock);
        if let Operation::Wake = self.operation {
            let run_task = contestant.run_task?;
            return Some(wake(run_task, self.batch * batches, watch));
        }
        let work = self.work(contestant)?;
        let micro = Micro::new(self.batch, batches, watch);
        Some(work(micro.clone()).map(|()| {
            let (count, elapsed) = micro.into_result();
            metrics(elapsed, count)
        }))
    }
}

fn metrics(elapsed: Elapsed, count: u64) -> Vec<Metric> {
    vec![
        Metric::new("cpu_per_operation", "ns", elapsed.cpu.as_nanos() as f64 / count as f64),
        Metric::new("wall_per_operation", "ns", elapsed.wall.as_nanos() as f64 / count as f64),
    ]
}

/// Wakes before the clock starts.
const WARM: u64 = 1_000;

/// What the task and the thread that wakes it share. On cache lines of its own: the thread spins on
/// it, which slows whatever is beside it on the heap.
#[derive(Default)]
#[repr(align(128))]
struct Bell {
    /// How often it was rung. Written by the thread.
    rung: AtomicU64,
    /// How often the task has heard it. Written by the task.
    heard: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

/// Another thread rings, and rings again when the task has heard it: each time the task sleeps, or
/// is about to.
fn wake(
    run_task: fn(Task) -> io::Result<()>,
    count: u64,
    mut watch: Stopwatch,
) -> io::Result<Vec<Metric>> {
    let total = WARM + count;
    let bell = Arc::new(Bell::default());
    let ringer = thread::spawn({
        let bell = Arc::clone(&bell);
        move || ring(&bell, total)
    });
    let elapsed = Arc::new(Mutex::new(Elapsed::default()));
    let result = Arc::clone(&elapsed);
    run_task(Box::pin(poll_fn(move |cx| {
        let rung = bell.rung.load(Ordering::Acquire);
        if rung > bell.heard.load(Ordering::Relaxed) {
            if rung == WARM {
                watch.start();
            }
            if rung == total {
                watch.stop();
                *result.lock() = watch.total();
                bell.heard.store(rung, Ordering::Release);
                return Poll::Ready(());
            }
            *bell.waker.lock() = Some(cx.waker().clone());
            bell.heard.store(rung, Ordering::Release);
        } else {
            *bell.waker.lock() = Some(cx.waker().clone());
        }
        Poll::Pending
    })))?;
    if ringer.join().is_err() {
        fail("the thread that wakes panicked");
    }
    let elapsed = *elapsed.lock();
    Ok(metrics(elapsed, count))
}

/// Runs on the other CPU.
fn ring(bell: &Bell, total: u64) {
    pin(GENERATOR_CPU);
    for number in 1..=total {
        let waker = loop {
            if let Some(waker) = bell.waker.lock().take() {
                break waker;
            }
            hint::spin_loop();
        };
        bell.rung.store(number, Ordering::Release);
        waker.wake();
        while bell.heard.load(Ordering::Acquire) < number {
            hint::spin_loop();
        }
    }
}
