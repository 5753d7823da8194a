//! A runtime that ends with its thread delivers like any other, whatever its receivers await.

use std::cell::RefCell;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide::time::{sleep, timeout};
use ebbtide::{LocalHandle, Runtime, spawn, spawn_blocking};
use ebbtide_testkit::child::again;
use ebbtide_testkit::{Shape, on_every_shape};

use crate::queued::socket_with;

on_every_shape!(
    a_runtime_in_a_thread_local_delivers_when_its_thread_ends,
    a_runtime_made_before_all_other_thread_locals_delivers_as_well,
);

const COUNT: usize = 30;

thread_local! {
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// Spawns receivers of every kind, each with `COUNT` queued datagrams. Each sends its name for
/// every datagram that it has handled.
fn spawn_receivers(handled: &mpsc::Sender<&'static str>) {
    let receive = |name: &'static str, socket: UdpSocket| {
        let handled = handled.clone();
        spawn(async move {
            while let Some(datagram) = socket.recv().await.unwrap() {
                match name {
                    "sleeps" => sleep(Duration::from_micros(10)).await,
                    "spawns" => spawn(yield_now()).await.unwrap(),
                    "times out" => {
                        let _ = timeout(Duration::ZERO, std::future::pending::<()>()).await;
                    }
                    "blocks" if datagram[0] == 0 => spawn_blocking(|| ()).await.unwrap(),
                    "sends" => {
                        let to = socket.local_addr().unwrap();
                        socket.send_to(b"refused", to).await.unwrap();
                    }
                    _ => assert!(LocalHandle::try_current().is_ok()),
                }
                handled.send(name).unwrap();
            }
        });
    };
    for name in ["takes", "sleeps", "spawns", "times out", "blocks", "sends"] {
        receive(name, socket_with(COUNT));
    }
}

/// Fails when thread-locals of Ebbtide are destroyed before the runtime.
fn deliver(shape: Shape, prepare: fn()) {
    let (handled, all) = mpsc::channel();
    let ended = thread::spawn(move || {
        prepare();
        let runtime = shape.runtime();
        runtime.block_on(async { spawn_receivers(&handled) });
        drop(handled);
        RUNTIME.set(Some(runtime));
    });
    let names: Vec<_> = all.iter().collect();
    ended.join().unwrap();
    for name in ["takes", "sleeps", "spawns", "times out", "blocks", "sends"] {
        assert_eq!(names.iter().filter(|handled| **handled == name).count(), COUNT, "{name}");
    }
}

fn a_runtime_in_a_thread_local_delivers_when_its_thread_ends(shape: Shape) {
    deliver(shape, || ());
}

/// Thread-locals are destroyed in reverse order. Here the one of the runtime is initialized before
/// those of Ebbtide.
fn a_runtime_made_before_all_other_thread_locals_delivers_as_well(shape: Shape) {
    deliver(shape, || RUNTIME.with(|runtime| assert!(runtime.borrow().is_none())));
}

/// The thread-locals of the main thread are dropped when the process exits. The test is started
/// again, on the main thread of a separate process.
#[test]
fn a_runtime_of_the_main_thread_delivers_when_the_process_ends() {
    const TEST: &str =
        "exit_drains::thread_end::a_runtime_of_the_main_thread_delivers_when_the_process_ends";
    const FILE: &str = "EBBTIDE_TEST_FILE";
    if let Some(path) = std::env::var_os(FILE) {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let socket = socket_with(COUNT);
            spawn(async move {
                let mut count = 0;
                while socket.recv().await.unwrap().is_some() {
                    sleep(Duration::from_micros(10)).await;
                    count += 1;
                }
                std::fs::write(path, format!("{count}")).unwrap();
            });
        });
        RUNTIME.set(Some(runtime));
        return;
    }
    let path = std::env::temp_dir().join(format!("ebbtide-main-thread-{}", std::process::id()));
    let mut child = again(TEST);
    let output = child.arg("--test-threads=1").env(FILE, &path).output().unwrap();
    assert!(output.status.success());
    let count = std::fs::read_to_string(&path).expect("the count was written at the end");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(count, COUNT.to_string());
}
