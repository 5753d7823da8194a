//! Hundreds of runtimes are made, and dropped while they work. They leak nothing: descriptors,
//! threads, mappings, memory and locked memory are as they were after the first few.
//!
//! Each test runs in a separate process, so its counts do not include those of other tests. Limits
//! do not apply to the rings of root, so root first becomes another user. Locked memory is limited
//! to that of some fifty runtimes, which reveals a leak (`/proc` does not show how much rings use).
//!
//! `cargo test --release --test process -- resources --ignored --nocapture` makes ten thousand
//! runtimes on each driver.

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::{Datagram, UdpSocket, UnixDatagram};
use ebbtide::time::sleep;
use ebbtide::{Drain, Runtime};
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::rights::limit_locked_memory;
use ebbtide_testkit::{Shape, descriptor};

const SHORT: usize = 300;
const LONG: usize = 10_000;

/// The number of runtimes after which everything that is set up once exists: thread pools, the
/// allocator's arenas.
const WARM_UP: usize = 50;

/// A ring of the default size takes about 40 KiB of it.
const LOCKED_MEMORY: u64 = 2 << 20;

/// The permitted difference for allocators and thread stacks. This is far less than a page for each
/// runtime.
const RESIDENT_SLACK_KIB: i64 = 512;
const MAPPING_SLACK: i64 = 16;

#[test]
fn hundreds_of_runtimes_on_a_ring_leave_nothing_behind() {
    in_a_child(|| leave_nothing_behind(Shape::DEFAULT, SHORT));
}

#[test]
fn hundreds_of_runtimes_on_epoll_leave_nothing_behind() {
    in_a_child(|| leave_nothing_behind(Shape::EPOLL, SHORT));
}

#[test]
#[ignore = "takes minutes"]
fn ten_thousand_runtimes_on_a_ring_leave_nothing_behind() {
    in_a_child(|| leave_nothing_behind(Shape::DEFAULT, LONG));
}

#[test]
#[ignore = "takes minutes"]
fn ten_thousand_runtimes_on_epoll_leave_nothing_behind() {
    in_a_child(|| leave_nothing_behind(Shape::EPOLL, LONG));
}

/// Fails when a descriptor, a mapping, a task, an operation or a buffer outlives its runtime.
fn leave_nothing_behind(shape: Shape, count: usize) {
    limit_locked_memory(LOCKED_MEMORY);
    let driver = shape.runtime().driver().to_string();
    (0..WARM_UP).for_each(|seed| one_life(shape, &driver, seed));
    let before = Usage::now();
    println!("measured on {driver}, after {WARM_UP}: {before:?}");
    for seed in WARM_UP..WARM_UP + count {
        one_life(shape, &driver, seed);
        if (seed + 1) % 2_000 == 0 {
            println!("measured on {driver}, after {}: {:?}", seed + 1, Usage::now());
        }
    }
    let after = Usage::now();
    println!("measured on {driver}, after {}: {after:?}", WARM_UP + count);
    let run = format!("{}, {count} runtimes: {before:?}, then {after:?}", shape.name);
    assert_eq!(after.descriptors, before.descriptors, "{run}");
    assert_eq!(after.locked_kib, before.locked_kib, "{run}");
    assert!(after.mappings - before.mappings <= MAPPING_SLACK, "{run}");
    assert!(after.resident_kib - before.resident_kib <= RESIDENT_SLACK_KIB, "{run}");
}

/// A runtime that is ended in one of several ways, with sockets, tasks, timers and datagrams of all
/// kinds in flight.
///
/// Fails when its driver differs from that of the first runtime: without lockable memory there is
/// no ring.
fn one_life(shape: Shape, driver: &str, seed: usize) {
    let mut random = fastrand::Rng::with_seed(seed as u64);
    // The exit waits a moment for the datagrams that the program holds.
    let policy = Drain::default().deadline(Duration::from_millis(1));
    let runtime = shape.builder().drain(policy).build().unwrap();
    assert_eq!(runtime.driver().to_string(), driver, "seed {seed}");
    let held = Rc::new(RefCell::new(Vec::new()));
    runtime.block_on(work(&mut random, Rc::clone(&held)));
    match random.usize(0..=4) {
        0 => drop(runtime.stop()),
        1 => drop(runtime),
        2 => end_by_a_panic(runtime),
        _ => {
            let report = runtime.shutdown(policy);
            assert_eq!(report.operations_leaked, 0, "seed {seed}: {report}");
        }
    }
    // Some datagrams outlive their runtime.
    drop(held);
}

async fn work(random: &mut fastrand::Rng, held: Rc<RefCell<Vec<Datagram>>>) {
    let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
    let address = socket.local_addr().unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (left, right) = UnixDatagram::pair().unwrap();

    // A receiver that holds what it gets, and ends with its socket.
    let receiver = Rc::clone(&socket);
    ebbtide::spawn(async move {
        while let Some(datagram) = receiver.recv().await.unwrap() {
            held.borrow_mut().push(datagram);
        }
    });
    for len in 0..random.usize(1..=20) {
        sender.send_to(&vec![1; 10 * len], address).await.unwrap();
    }
    // Datagrams that nobody receives, and a sender that waits for space for ever.
    let unread = random.usize(0..=1) == 0;
    ebbtide::spawn(async move {
        // Until the end of the runtime seals its peer.
        while (unread || right.try_recv().is_err()) && left.send(b"wait").await.is_ok() {}
    });
    // A timer that never fires, a task that never ends, a future that is dropped while it waits, a
    // handle that is dropped, and one that is aborted.
    ebbtide::spawn(sleep(Duration::from_secs(3_600)));
    drop(ebbtide::spawn(std::future::pending::<()>()));
    ebbtide::spawn(std::future::pending::<()>()).abort();
    let _ = ebbtide::time::timeout(Duration::ZERO, socket.recv()).await;
    if random.usize(0..=9) == 0 {
        ebbtide::spawn_blocking(|| ()).await.unwrap();
    }
    for _ in 0..random.usize(0..=3) {
        ebbtide::task::yield_now().await;
    }
}

/// Drops the runtime while a panic unwinds. Nothing is printed, because the hook is not called.
fn end_by_a_panic(runtime: Runtime) {
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _runtime = runtime;
        std::panic::resume_unwind(Box::new("for the test"));
    }));
    assert!(unwound.is_err());
}

/// What the process holds.
#[derive(Debug)]
#[expect(dead_code, reason = "the number of threads is only printed")]
struct Usage {
    descriptors: usize,
    mappings: i64,
    resident_kib: i64,
    locked_kib: i64,
    threads: i64,
}

impl Usage {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .expect("/proc/self/status has the field");
            line.trim_end_matches("kB").trim().parse().expect("the field is a number")
        };
        Self {
            descriptors: descriptor::count(),
            mappings: fs::read_to_string("/proc/self/maps").unwrap().lines().count() as i64,
            resident_kib: field("VmRSS:"),
            locked_kib: field("VmLck:"),
            threads: field("Threads:"),
        }
    }
}
