//! Wakers that other threads hold, and timers.

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use ebbtide::Drain;
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide_testkit::leaks::leaves_nothing;
use futures_util::FutureExt;

use super::{Alive, alive, small_runtime};

/// A task that passes on its waker and waits for ever.
async fn give_waker(to: mpsc::Sender<Waker>) {
    poll_fn(|cx| {
        to.send(cx.waker().clone()).unwrap();
        Poll::<()>::Pending
    })
    .await;
}

#[test]
fn a_waker_outlives_its_runtime_and_is_woken_from_another_thread() {
    leaves_nothing(|| {
        let runtime = small_runtime();
        let (give, wakers) = mpsc::channel();
        for _ in 0..10 {
            runtime.spawn(give_waker(give.clone()));
        }
        runtime.block_on(async {
            // The waker of `block_on` as well.
            let mut own = Box::pin(give_waker(give));
            poll_fn(|cx| {
                assert!(own.as_mut().poll(cx).is_pending());
                cx.waker().wake_by_ref();
                Poll::Ready(())
            })
            .await;
            yield_now().await;
        });
        drop(runtime);
        let wake = thread::spawn(move || wakers.iter().for_each(Waker::wake));
        wake.join().unwrap();
    });
}

/// Hangs when the end does not check the remote queue for tasks. Aborts the process when a task is
/// dropped by the thread that wakes it.
#[test]
fn wakes_from_another_thread_while_the_runtime_ends_harm_nothing() {
    leaves_nothing(|| {
        let count = Alive::default();
        for _ in 0..100 {
            let runtime = small_runtime();
            let (give, wakers) = mpsc::channel();
            for _ in 0..10 {
                let (give, held) = (give.clone(), count.clone());
                runtime.spawn(async move {
                    let _held = held;
                    give_waker(give).await;
                });
            }
            drop(give);
            runtime.block_on(yield_now());
            let first: Vec<Waker> = wakers.try_iter().collect();
            assert_eq!(first.len(), 10);
            let over = Arc::new(AtomicBool::new(false));
            let waking = thread::spawn({
                let over = Arc::clone(&over);
                move || {
                    while !over.load(Ordering::Relaxed) {
                        first.iter().for_each(Waker::wake_by_ref);
                    }
                }
            });
            // Until the thread wakes them, and they are polled again.
            runtime.block_on(async {
                while wakers.try_recv().is_err() {
                    yield_now().await;
                }
            });
            runtime.shutdown(Drain::default().deadline(Duration::from_millis(1)));
            assert_eq!(alive(&count), 0);
            over.store(true, Ordering::Relaxed);
            waking.join().unwrap();
        }
    });
}

#[test]
fn a_sleep_outlives_its_runtime() {
    leaves_nothing(|| {
        let runtime = small_runtime();
        let mut outlives = Box::pin(sleep(Duration::from_secs(3600)));
        runtime.block_on(async { assert!(outlives.as_mut().now_or_never().is_none()) });
        drop(runtime);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outlives.as_mut().poll(&mut cx).is_pending());
        drop(outlives);
    });
}
