//! `RLIMIT_NOFILE` and `RLIMIT_MEMLOCK` at their edges.

use std::cell::Cell;
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use ebbtide::net::{Address, DatagramSocket, UdpSocket, UnixAddr, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::{Drain, DrainOutcome, DriverChoice, RunningDriver, Runtime};
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::descriptor::use_up;
use ebbtide_testkit::rights::{as_another_user, limit};
use ebbtide_testkit::{Shape, Transport, Watchdog, unique_name};
use futures_util::FutureExt;

use crate::program;

/// A socket with queued datagrams, opened while descriptors were available.
fn backlog<T: Transport>(received: &Rc<Cell<u64>>) -> socket2::Socket {
    async fn receive<A: Address>(socket: DatagramSocket<A>, received: Rc<Cell<u64>>) {
        while let Some(datagram) = socket.recv().await.unwrap() {
            received.set(received.get() + datagram.len() as u64);
        }
    }
    let (sender, socket) = T::pair();
    ebbtide::spawn(receive(T::open(socket), Rc::clone(received)));
    sender
}

/// Opening fails with an error that names the cause. Open sockets go on, wait, and are drained.
#[test]
fn a_runtime_without_descriptors_says_so_and_loses_nothing() {
    in_a_child(|| {
        let _watchdog = Watchdog::new("no descriptor is left");
        limit(libc::RLIMIT_NOFILE, 100);
        for shape in Shape::ALL {
            for room in 0..6 {
                with_room_for(shape, room);
            }
        }
    });
}

fn with_room_for(shape: Shape, room: usize) {
    let run = format!("{}, {room} descriptors", shape.name);
    let runtime = shape.runtime();
    let received = Rc::default();
    let (senders, waiting, peer) = runtime.block_on(async {
        let senders = [backlog::<UnixAddr>(&received), backlog::<SocketAddr>(&received)];
        let (waiting, peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let waiting = UnixDatagram::from_std(waiting).unwrap();
        while waiting.try_send(&[0; 2_000]).is_ok() {}
        (senders, waiting, peer)
    });
    let mut full = use_up();
    full.truncate(full.len() - room);

    let mut opened = Vec::new();
    runtime.block_on(async {
        for _ in 0..20 {
            senders.iter().for_each(|sender| assert_eq!(sender.send(&[1]).unwrap(), 1));
            match UdpSocket::bind("127.0.0.1:0") {
                Ok(socket) => opened.push(socket),
                Err(error) => {
                    assert!(error.to_string().contains("Too many open files"), "{run}: {error}");
                }
            }
            yield_now().await;
        }
        assert_eq!(opened.len(), room, "{run}");
        assert!(waiting.send(b"waits").now_or_never().is_none(), "{run}");
    });
    senders.iter().for_each(|sender| assert_eq!(sender.send(&[1]).unwrap(), 1));
    let report = runtime.shutdown(Drain::default().quiesce(true));
    assert_eq!(received.get(), 42, "{run}: {report}");
    assert_eq!(report.outcome, DrainOutcome::Complete, "{run}: {report}");
    drop((full, peer));
}

/// A peer outside of the runtime, whose queue is full until it is read.
fn full_peer(name: &UnixAddr) -> (std::os::unix::net::UnixDatagram, usize) {
    let peer = std::os::unix::net::UnixDatagram::bind_addr(name).unwrap();
    peer.set_nonblocking(true).unwrap();
    let filler = std::os::unix::net::UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    let queued = iter::from_fn(|| filler.send_to_addr(b"fills", name).ok()).count();
    (peer, queued)
}

/// Waiting for space in the queue of a peer needs a descriptor. Fails when a send that gets none
/// fails instead of waiting, when it spins, or when the exit does not wait for it.
#[test]
fn a_send_waits_although_no_descriptor_is_left() {
    in_a_child(|| {
        let _watchdog = Watchdog::new("a send waits");
        limit(libc::RLIMIT_NOFILE, 100);
        for shape in Shape::ALL {
            sends_wait_without_descriptors(shape);
        }
    });
}

fn sends_wait_without_descriptors(shape: Shape) {
    let runtime = shape.runtime();
    let name = unique_name("full");
    let (peer, queued) = full_peer(&name);
    let empty = move |peer: &std::os::unix::net::UnixDatagram| {
        (0..queued).for_each(|_| assert_eq!(peer.recv(&mut [0; 100]).unwrap(), 5));
    };
    let (sender, connected) = runtime.block_on(async {
        let connected = UnixDatagram::unbound().unwrap();
        connected.connect_addr(&name).unwrap();
        (UnixDatagram::unbound().unwrap(), connected)
    });
    let full = use_up();
    runtime.block_on(async {
        let mut sends = [connected.send(b"one"), sender.send_to_addr(b"two", &name)];
        let mut writable = connected.writable();
        let turns = runtime.metrics().turns;
        for _ in 0..5 {
            assert!(sends.iter_mut().all(|send| send.now_or_never().is_none()), "{}", shape.name);
            assert!((&mut writable).now_or_never().is_none(), "{}", shape.name);
            ebbtide::time::sleep(Duration::from_millis(8)).await;
        }
        let turns = runtime.metrics().turns - turns;
        assert!(turns < 1_000, "{}: the runtime spins: {turns} turns", shape.name);
        empty(&peer);
        for send in sends {
            assert_eq!(send.await.unwrap(), 3, "{}", shape.name);
        }
        writable.await.unwrap();
    });
    for _ in 0..2 {
        assert_eq!(peer.recv(&mut [0; 100]).unwrap(), 3);
    }
    assert!(peer.recv(&mut [0; 100]).is_err(), "a datagram came twice");

    drop(full);
    let filler = std::os::unix::net::UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to_addr(b"fills", &name).is_ok() {}
    let full = use_up();
    let sending = runtime.spawn(async move { sender.send_to_addr(b"waits", &name).await.unwrap() });
    let emptier = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        empty(&peer);
        peer
    });
    let report = runtime.shutdown(Drain::default());
    assert_eq!((report.outcome, report.tasks_dropped), (DrainOutcome::Complete, 0), "{report}");
    assert!(sending.is_finished());
    let peer = emptier.join().unwrap();
    assert_eq!(peer.recv(&mut [0; 100]).unwrap(), 5);
    drop((full, connected));
}

/// Starts a runtime with `bytes` of locked memory. Returns how many entries the ring got, `None`
/// for epoll, or the error.
fn with_locked_memory(bytes: u64, choice: DriverChoice) -> io::Result<Option<u32>> {
    limit(libc::RLIMIT_MEMLOCK, bytes);
    let runtime = Runtime::builder().driver(choice).build()?;
    let entries = match runtime.driver() {
        RunningDriver::IoUring { completion_entries, .. } => Some(completion_entries),
        _ => None,
    };
    program::run_on::<SocketAddr>(runtime, bytes).check(&[], &format!("{bytes} bytes locked"));
    Ok(entries)
}

/// More memory never leads to a smaller ring. Fails when a smaller ring is not tried because the
/// memory of the larger one that failed is not free yet.
fn check_locked_memory(sizes: &[u64]) {
    let _watchdog = Watchdog::new("locked memory");
    if !Shape::DEFAULT.has_ring() {
        return println!("skipped: io_uring is not available");
    }
    as_another_user(|| {
        let mut most = None;
        for bytes in sizes {
            let auto = with_locked_memory(*bytes, DriverChoice::Auto)
                .expect("epoll needs no locked memory");
            println!("note: {bytes} bytes of locked memory: completion queue {auto:?}");
            assert!(auto >= most, "{bytes} bytes: {auto:?}, but {most:?} with less");
            most = auto;
            let ring = with_locked_memory(*bytes, DriverChoice::IoUring);
            match (auto, ring) {
                (Some(_), Ok(Some(_))) => {}
                (None, Err(error)) => {
                    assert!(error.to_string().contains("ulimit -l"), "{bytes}: {error}");
                }
                (auto, ring) => panic!("{bytes}: {auto:?}, but then {ring:?}"),
            }
        }
    });
}

#[test]
fn another_user_with_little_locked_memory_gets_what_fits() {
    in_a_child(|| {
        check_locked_memory(&[0, 1 << 20, 8 << 20]);
    });
}

#[test]
#[ignore = "the long form: a ring that does not fit is tried for a second"]
fn another_user_with_any_amount_of_locked_memory_gets_what_fits() {
    in_a_child(|| {
        let sizes = [0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 256];
        check_locked_memory(&sizes.map(|pages| pages * 4_096));
    });
}

/// Opens rings until no more fit. The next one is smaller, or epoll is used. All work, also
/// together.
#[test]
#[ignore = "the long form: a ring that does not fit is tried for a second"]
fn rings_that_use_locked_memory_up_leave_the_next_ones_working() {
    in_a_child(|| {
        let _watchdog = Watchdog::new("locked memory is used up");
        if !Shape::DEFAULT.has_ring() {
            return println!("skipped: io_uring is not available");
        }
        as_another_user(|| {
            limit(libc::RLIMIT_MEMLOCK, 1 << 20);
            let mut runtimes = Vec::new();
            for _ in 0..64 {
                runtimes.push(Runtime::new().unwrap());
                if runtimes
                    .last()
                    .is_some_and(|last| !matches!(last.driver(), RunningDriver::IoUring { .. }))
                {
                    break;
                }
            }
            println!(
                "note: {} rings fit, then: {}",
                runtimes.len() - 1,
                runtimes.last().unwrap().driver()
            );
            for (seed, runtime) in (0..).zip(runtimes) {
                program::run_on::<SocketAddr>(runtime, seed).check(&[], "locked memory is used up");
            }
            // The memory is free again.
            assert!(matches!(Runtime::new().unwrap().driver(), RunningDriver::IoUring { .. }));
        });
    });
}

/// The limit of processes is like that of a container. Fails when a call that gets no thread blocks
/// the loop, is lost, or is not tried again.
#[test]
fn a_blocking_call_waits_for_a_thread_while_the_loop_goes_on() {
    in_a_child(|| {
        let _watchdog = Watchdog::new("a blocking call waits for a thread");
        for shape in [Shape::DEFAULT, Shape::EPOLL] {
            // The limit does not apply to root.
            let is_shown = as_another_user(|| {
                let runtime = shape.runtime();
                limit(libc::RLIMIT_NPROC, 0);
                assert!(thread::Builder::new().spawn(|| ()).is_err(), "no thread can be started");
                runtime.block_on(async {
                    let calls: Vec<_> =
                        (0..3).map(|number| ebbtide::spawn_blocking(move || number)).collect();
                    ebbtide::time::sleep(Duration::from_millis(50)).await;
                    assert!(calls.iter().all(|call| !call.is_finished()), "{}", shape.name);
                    limit(libc::RLIMIT_NPROC, libc::RLIM_INFINITY);
                    for (number, call) in calls.into_iter().enumerate() {
                        assert_eq!(call.await.unwrap(), number, "{}", shape.name);
                    }
                });
                limit(libc::RLIMIT_NPROC, 0);
                drop(runtime.block_on(async { [ebbtide::spawn_blocking(|| ())] }));
                let report = runtime.shutdown(Drain::default().deadline(Duration::from_millis(1)));
                limit(libc::RLIMIT_NPROC, libc::RLIM_INFINITY);
                // An earlier thread may have been free, and fast enough.
                let expected = match report.unfinished {
                    0 => DrainOutcome::Complete,
                    _ => DrainOutcome::DeadlinePassed,
                };
                assert_eq!(report.outcome, expected, "{report}");
            });
            if is_shown.is_none() {
                println!("skipped: no other user");
            }
        }
    });
}
