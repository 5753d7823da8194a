//! Futures whose size is a quarter of the stack.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use ebbtide::task::yield_now;
use ebbtide::time::timeout;
use ebbtide::{Runtime, run, spawn, spawn_blocking};

const STACK: usize = 2 << 20;
const LARGE: usize = 512 << 10;

async fn large() -> usize {
    let memory = [1u8; LARGE];
    yield_now().await;
    black_box(&memory).iter().map(|&byte| usize::from(byte)).sum()
}

/// Runs `f` on a stack of 2 MiB. An overflow ends the process.
fn on_a_small_stack(f: fn() -> usize) {
    let thread = thread::Builder::new().stack_size(STACK).spawn(f).unwrap();
    assert_eq!(thread.join().unwrap(), LARGE);
}

/// Fails, by a stack overflow, when each function on the path has the future on the stack.
#[test]
fn a_large_future_can_be_spawned_in_each_way() {
    on_a_small_stack(|| Runtime::new().unwrap().block_on(async { spawn(large()).await.unwrap() }));
    on_a_small_stack(|| {
        let runtime = Runtime::new().unwrap();
        let task = runtime.spawn(large());
        runtime.block_on(task).unwrap()
    });
    on_a_small_stack(|| {
        let runtime = Runtime::new().unwrap();
        let task = runtime.handle().spawn(large());
        runtime.block_on(task).unwrap()
    });
}

#[test]
fn a_large_future_can_be_run_in_each_way() {
    on_a_small_stack(|| Runtime::new().unwrap().block_on(large()));
    on_a_small_stack(|| run(async { std::io::Result::Ok(large().await) }).unwrap());
}

#[test]
fn a_large_future_can_be_bounded_in_time_and_a_large_call_can_block() {
    on_a_small_stack(|| {
        Runtime::new().unwrap().block_on(async {
            let bounded = spawn(async { timeout(Duration::from_secs(3_600), large()).await });
            bounded.await.unwrap().unwrap()
        })
    });
    on_a_small_stack(|| {
        Runtime::new().unwrap().block_on(async {
            let memory = [1u8; LARGE / 2];
            let call = spawn_blocking(move || {
                2 * black_box(&memory).iter().map(|&byte| usize::from(byte)).sum::<usize>()
            });
            call.await.unwrap()
        })
    });
}
