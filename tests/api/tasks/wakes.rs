//! Wakes from other threads arrive, also between the last look for work and the sleep.

use std::cell::Cell;
use std::future::poll_fn;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;

use ebbtide::spawn_blocking;
use ebbtide_testkit::{Shape, on_every_shape, until};
use futures_util::task::AtomicWaker;

on_every_shape!(
    every_wake_from_other_threads_arrives,
    a_task_is_woken_from_its_sleep_ten_thousand_times,
    the_future_of_block_on_is_woken_from_its_sleep_ten_thousand_times,
);

/// Permits that other threads hand out and one task takes. Only the waker tells the task about
/// them.
#[derive(Default)]
struct Permits {
    left: AtomicUsize,
    waker: AtomicWaker,
}

impl Permits {
    fn give(&self) {
        self.left.fetch_add(1, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Takes all permits, at least one.
    async fn take(&self) -> usize {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            match self.left.swap(0, Ordering::SeqCst) {
                0 => Poll::Pending,
                taken => Poll::Ready(taken),
            }
        })
        .await
    }
}

/// Fails when a wake-up is lost.
fn every_wake_from_other_threads_arrives(shape: Shape) {
    const TASKS: usize = 8;
    const THREADS: usize = 4;
    const WAKES: usize = 100_000 / THREADS;
    let runtime = shape.runtime();
    let permits: Arc<[Permits]> = (0..TASKS).map(|_| Permits::default()).collect();
    let taken = Rc::new(Cell::new(0));
    for number in 0..TASKS {
        let (permits, taken) = (Arc::clone(&permits), Rc::clone(&taken));
        runtime.spawn(async move {
            loop {
                let more = permits[number].take().await;
                taken.set(taken.get() + more);
            }
        });
    }
    let threads: Vec<_> = (0..THREADS as u64)
        .map(|seed| {
            let permits = Arc::clone(&permits);
            thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..WAKES {
                    permits[random.usize(0..=TASKS - 1)].give();
                }
            })
        })
        .collect();
    runtime.block_on(async {
        let all_given = spawn_blocking(move || {
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        all_given.await.unwrap();
        until(|| taken.get() == THREADS * WAKES).await;
    });
}

const ROUNDS: usize = 10_000;

/// A thread answers each ball with a permit. Its pause is so short that the answer often comes
/// between the last look for work and the sleep. Hangs when a wake-up is lost.
async fn ping_pong() -> usize {
    let permits = Arc::new(Permits::default());
    let balls = Arc::new(AtomicUsize::new(0));
    let opponent = thread::spawn({
        let (permits, balls) = (Arc::clone(&permits), Arc::clone(&balls));
        move || {
            for round in 1..=ROUNDS {
                while balls.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                }
                (0..round % 512).for_each(|pause| _ = black_box(pause));
                permits.give();
            }
        }
    });
    let mut taken = 0;
    for round in 1..=ROUNDS {
        balls.store(round, Ordering::Release);
        taken += permits.take().await;
    }
    opponent.join().unwrap();
    taken
}

/// Hangs when the runtime goes to sleep without a look into the remote queue after it has set
/// "asleep".
fn a_task_is_woken_from_its_sleep_ten_thousand_times(shape: Shape) {
    let runtime = shape.runtime();
    let task = runtime.spawn(ping_pong());
    assert_eq!(runtime.block_on(task).unwrap(), ROUNDS);
    let turns = runtime.metrics().turns;
    assert!(turns < 10 * ROUNDS as u64, "the runtime spins instead of sleeping: {turns} turns");
}

/// Hangs when the runtime goes to sleep without checking whether that future was woken.
fn the_future_of_block_on_is_woken_from_its_sleep_ten_thousand_times(shape: Shape) {
    let runtime = shape.runtime();
    assert_eq!(runtime.block_on(ping_pong()), ROUNDS);
    let turns = runtime.metrics().turns;
    assert!(turns < 10 * ROUNDS as u64, "the runtime spins instead of sleeping: {turns} turns");
}
