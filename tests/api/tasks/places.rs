//! Where tasks can be spawned, and where runtimes can be entered.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread;

use ebbtide::{LocalHandle, Runtime, spawn};
use ebbtide_testkit::until;

use super::run;

fn message_of(result: thread::Result<()>) -> String {
    let panic = result.expect_err("the call panics");
    panic.downcast::<String>().map_or_else(
        |panic| (*panic.downcast::<&str>().expect("a message")).to_owned(),
        |message| *message,
    )
}

#[test]
fn block_on_inside_a_runtime_panics_and_says_what_to_do_instead() {
    run(async {
        for runtime in [Runtime::new().unwrap(), Runtime::new().unwrap()] {
            let nested = spawn(async move { runtime.block_on(async {}) });
            let error = nested.await.unwrap_err();
            assert!(error.to_string().contains("inside a runtime"), "{error}");
            assert!(error.to_string().contains("await the future, or spawn it"), "{error}");
        }
        assert_eq!(spawn(async { 1 }).await.unwrap(), 1, "the outer runtime goes on");
    });
}

#[test]
fn outside_a_runtime_there_is_no_handle() {
    let assert_outside = || {
        let error = LocalHandle::try_current().expect_err("no runtime is entered");
        assert!(error.to_string().contains("Runtime::block_on"), "{error}");
        let message = message_of(catch_unwind(|| drop(spawn(async {}))));
        assert!(message.contains("Runtime::block_on"), "{message}");
    };
    assert_outside();
    let runtime = Runtime::new().unwrap();
    assert_outside();
    runtime.block_on(async { LocalHandle::try_current().map(drop) }).unwrap();
    assert_outside();
    let panicking = AssertUnwindSafe(|| runtime.block_on(async { panic!("inside") }));
    assert_eq!(message_of(catch_unwind(panicking)), "inside");
    assert_outside();
    drop(runtime);
    assert_outside();
}

#[test]
fn tasks_go_on_from_one_block_on_to_the_next() {
    let runtime = Runtime::new().unwrap();
    let (count, counted) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let both = (Rc::clone(&count), Rc::clone(&counted));
    runtime.spawn(async move {
        loop {
            until(|| both.0.get() > both.1.get()).await;
            both.1.set(both.0.get());
        }
    });
    for round in 1..=10 {
        count.set(round);
        runtime.block_on(until(|| counted.get() == round));
    }
}
