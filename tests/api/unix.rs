//! What a Unix datagram socket does: addresses, and the back-pressure of full queues.

use std::collections::BTreeSet;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram as Plain;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use ebbtide::net::{UnixAddr, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome};
use ebbtide_testkit::{Ledger, Shape, numbered, on_every_shape, parse, run, unique_name};
use futures_util::FutureExt;

use crate::assert_same_error;

on_every_shape!(
    every_kind_of_sender_is_named_rightly,
    a_path_in_use_is_refused,
    errors_are_those_of_std,
    a_path_with_a_zero_byte_is_refused_everywhere,
    try_send_to_a_full_queue_would_block,
    a_send_to_a_full_queue_waits_and_resumes,
    a_send_to_an_unconnected_full_queue_waits_and_resumes,
    a_send_to_an_unconnected_full_queue_waits_without_spinning,
    writable_waits_for_room_in_the_queue_of_the_peer,
    a_send_that_is_dropped_while_it_waits_takes_place_whole_or_not_at_all,
    shutdown_ends_dropped_sends_and_loses_nothing_accepted,
    shutdown_delivers_sends_that_still_wait,
    a_sealed_socket_breaks_the_pipe,
    many_sends_find_room_at_once,
    a_socket_is_connected_once_and_keeps_what_is_queued,
    a_round_trip_through_std_under_load_loses_nothing,
);

/// A limit for operations that take milliseconds unless they hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// A path that no other test uses. The file is removed when this is dropped.
struct TemporaryPath(PathBuf);

impl TemporaryPath {
    fn new() -> Self {
        let name = unique_name("path");
        let name = str::from_utf8(name.as_abstract_name().unwrap()).unwrap();
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TemporaryPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A plain receiver with a name. It reads only when a test makes it.
fn plain_receiver() -> (Plain, UnixAddr) {
    let name = unique_name("receiver");
    let receiver = Plain::bind_addr(&name).unwrap();
    receiver.set_nonblocking(true).unwrap();
    (receiver, name)
}

/// Sends numbered datagrams until the queue of `name` is full. Returns how many.
fn fill(name: &UnixAddr) -> u64 {
    let sender = Plain::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    let mut count = 0;
    while sender.send_to_addr(&numbered(0, count, 12), name).is_ok() {
        count += 1;
    }
    count
}

/// A connected and an unconnected sender that have to wait.
fn waiting_senders(name: &UnixAddr) -> (UnixDatagram, UnixDatagram) {
    let connected = UnixDatagram::unbound().unwrap();
    connected.connect_addr(name).unwrap();
    (connected, UnixDatagram::unbound().unwrap())
}

fn drain_plain(receiver: &Plain, mut enter: impl FnMut(&[u8])) {
    let mut memory = [0; 256];
    loop {
        match receiver.recv(&mut memory) {
            Ok(len) => enter(&memory[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn every_kind_of_sender_is_named_rightly(shape: Shape) {
    shape.run(async {
        let (path, other_path) = (TemporaryPath::new(), TemporaryPath::new());
        let receiver = UnixDatagram::bind(&path.0).unwrap();
        assert_eq!(receiver.local_addr().unwrap().as_pathname(), Some(&*path.0));

        let sender = UnixDatagram::bind(&other_path.0).unwrap();
        sender.send_to(b"path", &path.0).await.unwrap();
        let datagram = receiver.recv().await.unwrap().unwrap();
        assert_eq!(datagram.peer().as_pathname(), Some(&*other_path.0));

        let name = unique_name("sender");
        let sender = UnixDatagram::bind_addr(&name).unwrap();
        assert_eq!(sender.local_addr().unwrap().as_abstract_name(), name.as_abstract_name());
        sender.try_send_to(b"abstract", &path.0).unwrap();
        let datagram = receiver.recv().await.unwrap().unwrap();
        assert_eq!(datagram.peer().as_abstract_name(), name.as_abstract_name());
        receiver.send_to_addr(b"answer", &datagram.peer()).await.unwrap();
        let answer = sender.recv().await.unwrap().unwrap();
        assert_eq!((&answer[..], answer.peer().as_pathname()), (&b"answer"[..], Some(&*path.0)));

        let sender = UnixDatagram::unbound().unwrap();
        assert_eq!(sender.peer_addr().unwrap_err().kind(), io::ErrorKind::NotConnected);
        sender.connect(&path.0).unwrap();
        assert_eq!(sender.peer_addr().unwrap().as_pathname(), Some(&*path.0));
        sender.send(b"unnamed").await.unwrap();
        assert!(receiver.recv().await.unwrap().unwrap().peer().is_unnamed());

        let (left, right) = UnixDatagram::pair().unwrap();
        assert!(left.local_addr().unwrap().is_unnamed() && left.peer_addr().unwrap().is_unnamed());
        left.send(b"pair").await.unwrap();
        assert!(right.recv().await.unwrap().unwrap().peer().is_unnamed());
    });
}

fn a_path_in_use_is_refused(shape: Shape) {
    shape.run(async {
        let path = TemporaryPath::new();
        drop(UnixDatagram::bind(&path.0).unwrap());
        let error = UnixDatagram::bind(&path.0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    });
}

/// Fails when an error is wrapped in a custom error, which has no errno, and often no kind.
fn errors_are_those_of_std(shape: Shape) {
    shape.run(async {
        let (file, dead, listening) =
            (TemporaryPath::new(), TemporaryPath::new(), TemporaryPath::new());
        std::fs::write(&file.0, "no socket").unwrap();
        drop(Plain::bind(&dead.0).unwrap());
        let _stream = std::os::unix::net::UnixListener::bind(&listening.0).unwrap();
        let below_a_file = file.0.join("socket");
        for path in [&below_a_file, &file.0, &dead.0, &"/nonexistent/socket".into()] {
            let ours = UnixDatagram::bind(path).map(drop);
            assert_same_error("bind", ours, Plain::bind(path).map(drop));
        }
        let too_long = PathBuf::from("p".repeat(200));
        let (ours, plain) = (UnixDatagram::unbound().unwrap(), Plain::unbound().unwrap());
        let paths = [&below_a_file, &file.0, &dead.0, &listening.0, &too_long, &"".into()];
        for path in paths {
            assert_same_error("connect", ours.connect(path), plain.connect(path));
            let plainly = || plain.send_to(b"", path).map(drop);
            assert_same_error("send_to", ours.send_to(b"", path).await.map(drop), plainly());
            assert_same_error("try_send_to", ours.try_send_to(b"", path).map(drop), plainly());
        }
        let unnamed = UnixAddr::from_pathname("").unwrap();
        assert_same_error("send", ours.send(b"").await.map(drop), plain.send(b"").map(drop));
        assert_eq!(ours.connect_addr(&unnamed).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let name = unique_name("taken");
        let _taken = Plain::bind_addr(&name).unwrap();
        let plainly = Plain::bind_addr(&name).map(drop);
        assert_same_error("bind_addr", UnixDatagram::bind_addr(&name).map(drop), plainly);
        let nobody = unique_name("nobody");
        let plainly = plain.connect_addr(&nobody);
        assert_same_error("connect_addr", ours.connect_addr(&nobody), plainly);
        let (ours, plain) = (ours.peer_addr(), plain.peer_addr());
        assert_same_error("peer_addr", ours.map(drop), plain.map(drop));
    });
}

/// Fails when such a path is cut at its NUL, because the datagram then reaches another socket.
fn a_path_with_a_zero_byte_is_refused_everywhere(shape: Shape) {
    shape.run(async {
        let decoy_path = TemporaryPath::new();
        let decoy = UnixDatagram::bind(&decoy_path.0).unwrap();
        let abstract_name = unique_name("not-a-path");
        let abstract_decoy = UnixDatagram::bind_addr(&abstract_name).unwrap();
        let name = str::from_utf8(abstract_name.as_abstract_name().unwrap()).unwrap();
        let cut = format!("{}\0other", decoy_path.0.display());
        let ends_in_zero = format!("{}\0", decoy_path.0.display());
        let sender = UnixDatagram::unbound().unwrap();
        for path in [cut, ends_in_zero, format!("\0{name}"), "\0".to_owned()] {
            let outcomes = [
                ("bind", UnixDatagram::bind(&path).map(drop)),
                ("connect", sender.connect(&path)),
                ("send_to", sender.send_to(b"secret", &path).await.map(drop)),
                ("try_send_to", sender.try_send_to(b"secret", &path).map(drop)),
            ];
            for (call, outcome) in outcomes {
                let error = outcome.expect_err(call);
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{call} {path:?}");
            }
        }
        for decoy in [decoy, abstract_decoy] {
            assert_eq!(decoy.try_recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    });
}

fn try_send_to_a_full_queue_would_block(shape: Shape) {
    shape.run(async {
        let path = TemporaryPath::new();
        let receiver = Plain::bind(&path.0).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        while sender.try_send_to(b"fill", &path.0).is_ok() {}
        let error = sender.try_send_to(b"one more", &path.0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        sender.connect(&path.0).unwrap();
        assert_eq!(sender.try_send(b"one more").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        receiver.recv(&mut [0; 8]).unwrap();
        sender.try_send(b"one more").unwrap();
    });
}

/// Sends one more datagram than fits. Checks that it comes last, once there is space.
async fn waits_and_resumes(
    receiver: Plain,
    name: UnixAddr,
    sender: UnixDatagram,
    to: Option<UnixAddr>,
) {
    let count = fill(&name);
    let sending = ebbtide::spawn(async move {
        let payload = numbered(0, count, 200);
        match to {
            Some(name) => sender.send_to_addr(&payload, &name).await,
            None => sender.send(&payload).await,
        }
    });
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!sending.is_finished(), "the send does not wait: the queue was not full");
    let mut ledger = Ledger::default();
    drain_plain(&receiver, |datagram| ledger.enter(datagram));
    assert_eq!(sending.await.unwrap().unwrap(), 200);
    drain_plain(&receiver, |datagram| ledger.enter(datagram));
    assert_eq!((ledger.received, ledger.holes), (count + 1, 0));
}

fn a_send_to_a_full_queue_waits_and_resumes(shape: Shape) {
    shape.run(async {
        let (receiver, name) = plain_receiver();
        let (connected, _) = waiting_senders(&name);
        waits_and_resumes(receiver, name, connected, None).await;
    });
}

/// Readiness of the sender does not depend on a peer that it is not connected to.
fn a_send_to_an_unconnected_full_queue_waits_and_resumes(shape: Shape) {
    shape.run(async {
        let (receiver, name) = plain_receiver();
        let (_, unconnected) = waiting_senders(&name);
        waits_and_resumes(receiver, name.clone(), unconnected, Some(name)).await;
    });
}

/// Fails when space is polled for on a socket that is not connected to the peer: it always seems to
/// have some.
fn a_send_to_an_unconnected_full_queue_waits_without_spinning(shape: Shape) {
    let runtime = shape.runtime();
    let (receiver, name) = plain_receiver();
    fill(&name);
    let sending = runtime
        .spawn(async move { UnixDatagram::unbound().unwrap().send_to_addr(b"waits", &name).await });
    let before = runtime.metrics().enters;
    runtime.block_on(sleep(Duration::from_millis(50)));
    let enters = runtime.metrics().enters - before;
    assert!(enters <= 20, "{}: {enters} enters", shape.name);
    drain_plain(&receiver, |_| {});
    assert_eq!(run(&runtime, sending).unwrap().unwrap(), 5, "{}", shape.name);
}

fn writable_waits_for_room_in_the_queue_of_the_peer(shape: Shape) {
    shape.run(async {
        let (receiver, name) = plain_receiver();
        let sender = Rc::new(UnixDatagram::unbound().unwrap());
        sender.connect_addr(&name).unwrap();
        sender.writable().await.unwrap();
        fill(&name);
        let waiting = ebbtide::spawn({
            let sender = Rc::clone(&sender);
            async move { sender.writable().await }
        });
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(!waiting.is_finished(), "it does not wait for space");
        drain_plain(&receiver, |_| {});
        waiting.await.unwrap().unwrap();
        sender.try_send(b"room").unwrap();
    });
}

/// Fails when the kernel's overflow list, which gets most of the completions, is not flushed while
/// nothing is submitted.
fn many_sends_find_room_at_once(shape: Shape) {
    shape.run(async {
        let pairs: Vec<_> = (0..50)
            .map(|_| {
                let (sender, receiver) = Plain::pair().unwrap();
                receiver.set_nonblocking(true).unwrap();
                let sender = UnixDatagram::from_std(sender).unwrap();
                while sender.try_send(b"fill").is_ok() {}
                (sender, receiver)
            })
            .collect();
        let (senders, receivers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let waiting: Vec<_> = senders
            .into_iter()
            .map(|sender| {
                ebbtide::spawn(async move {
                    sender.writable().await.unwrap();
                    sender
                })
            })
            .collect();
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(
            !waiting.iter().any(|waiting| waiting.is_finished()),
            "one does not wait for space"
        );
        receivers.iter().for_each(|receiver| drain_plain(receiver, |_| {}));
        // Dropping a socket would submit an entry.
        let mut open = Vec::new();
        for waiting in waiting {
            open.push(waiting.await.unwrap());
        }
    });
}

/// Fails when the peer of a connected socket can be changed: Linux then discards its queue.
fn a_socket_is_connected_once_and_keeps_what_is_queued(shape: Shape) {
    shape.run(async {
        let (_receiver, name) = plain_receiver();
        let (socket, peer) = UnixDatagram::pair().unwrap();
        // Only the kernel's queue can be discarded.
        peer.try_send(b"queued").unwrap();
        let error = socket.connect_addr(&name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert_eq!(socket.recv().await.unwrap().unwrap()[..], *b"queued");
    });
}

const DROPPED: u64 = 200;
const DROPPED_LEN: usize = 100;

/// What a plain receiver got: the datagrams that filled its queue, and those of dropped sends.
#[derive(Default)]
struct Found {
    filling: Ledger,
    filled: u64,
    /// Dropped sends that did take place.
    dropped: BTreeSet<u64>,
}

impl Found {
    fn enter(&mut self, datagram: &[u8]) {
        assert!(!datagram.is_empty(), "an empty datagram, which nobody has sent");
        match parse(datagram) {
            (0, _) => self.filling.enter(datagram),
            (_, number) => {
                assert_eq!(datagram.len(), DROPPED_LEN);
                assert!(self.dropped.insert(number), "{number} came twice");
            }
        }
    }

    fn check_rest(mut self, receiver: &Plain) {
        drain_plain(receiver, |datagram| self.enter(datagram));
        assert_eq!((self.filling.received, self.filling.holes), (self.filled, 0));
    }

    /// Fills the queue, starts sends that wait for space, and drops them. Some find space before
    /// that.
    async fn drop_waiting_sends(&mut self, receiver: &Plain, name: &UnixAddr) {
        self.filled = fill(name);
        let (connected, unconnected) = waiting_senders(name);
        for number in 0..DROPPED {
            let payload = numbered(1, number, DROPPED_LEN);
            let mut sending = match number % 2 {
                0 => connected.send(&payload),
                _ => unconnected.send_to_addr(&payload, name),
            };
            let _ = sending.poll_unpin(&mut Context::from_waker(Waker::noop()));
            for _ in 0..number % 3 {
                yield_now().await;
            }
            if number % 10 == 0 {
                let mut memory = [0; 256];
                let len = receiver.recv(&mut memory).unwrap();
                self.enter(&memory[..len]);
            }
        }
    }
}

/// Fails when dropped sends are not cancelled, because they then stay in flight.
fn a_send_that_is_dropped_while_it_waits_takes_place_whole_or_not_at_all(shape: Shape) {
    let runtime = shape.runtime();
    let before = runtime.metrics();
    let (receiver, name) = plain_receiver();
    let mut found = Found::default();
    run(&runtime, found.drop_waiting_sends(&receiver, &name));
    for _attempt in 0..1_000 {
        if runtime.metrics().in_flight == before.in_flight {
            break;
        }
        run(&runtime, sleep(Duration::from_millis(2)));
    }
    assert_eq!(runtime.metrics().in_flight, before.in_flight, "operations leaked");
    found.check_rest(&receiver);
}

/// Fails when dropped sends are not cancelled, because the exit then waits for them in vain.
fn shutdown_ends_dropped_sends_and_loses_nothing_accepted(shape: Shape) {
    let runtime = shape.runtime();
    let (receiver, name) = plain_receiver();
    let mut found = Found::default();
    run(&runtime, found.drop_waiting_sends(&receiver, &name));
    let report = runtime.shutdown(Drain::default());
    assert_eq!((report.outcome, report.unfinished), (DrainOutcome::Complete, 0), "{report}");
    found.check_rest(&receiver);
}

/// Fails when the exit does not wait for sends.
fn shutdown_delivers_sends_that_still_wait(shape: Shape) {
    let runtime = shape.runtime();
    let (receiver, name) = plain_receiver();
    let filled = fill(&name);
    let sent = run(&runtime, async {
        let (connected, unconnected) = waiting_senders(&name);
        let one = ebbtide::spawn(async move { connected.send(&numbered(1, 0, 12)).await });
        let other_name = name.clone();
        let other = ebbtide::spawn(async move {
            unconnected.send_to_addr(&numbered(2, 0, 12), &other_name).await
        });
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(!one.is_finished() && !other.is_finished());
        [one, other]
    });
    // The queue has space only after the runtime has begun to end, when it has nothing else to do.
    let (begin, begins) = mpsc::channel();
    runtime.spawn(async move {
        sleep(Duration::from_millis(50)).await;
        begin.send(()).unwrap();
    });
    receiver.set_nonblocking(false).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let reading = thread::spawn(move || {
        begins.recv().expect("the exit waits for the sends");
        let mut memory = [0; 256];
        let mut ledger = Ledger::default();
        while ledger.received < filled + 2 {
            let len = receiver.recv(&mut memory).unwrap();
            ledger.enter(&memory[..len]);
        }
    });
    let report = runtime.shutdown(Drain::default().deadline(Duration::from_secs(5)));
    assert_eq!((report.outcome, report.unfinished), (DrainOutcome::Complete, 0), "{report}");
    for sending in sent {
        assert_eq!(sending.now_or_never().expect("the send has ended").unwrap().unwrap(), 12);
    }
    reading.join().unwrap();
}

fn a_sealed_socket_breaks_the_pipe(shape: Shape) {
    shape.run(async {
        let (left, right) = UnixDatagram::pair().unwrap();
        left.send(b"before").await.unwrap();
        right.drain().unwrap();
        assert_eq!(left.send(b"after").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(right.recv().await.unwrap().unwrap()[..], *b"before");
        assert!(right.recv().await.unwrap().is_none());
        right.send(b"still sends").await.unwrap();
        assert_eq!(left.recv().await.unwrap().unwrap()[..], *b"still sends");
    });
}

/// Fails when the socket is returned before its receive has ended.
fn a_round_trip_through_std_under_load_loses_nothing(shape: Shape) {
    const COUNT: u64 = 20_000;
    shape.run(async {
        let (receiver, sender) = Plain::pair().unwrap();
        let sending = thread::spawn(move || {
            for number in 0..COUNT {
                sender.send(&numbered(0, number, 12)).unwrap();
            }
        });
        let mut receiver = UnixDatagram::from_std(receiver).unwrap();
        let mut random = fastrand::Rng::with_seed(5);
        let mut ledger = Ledger::default();
        while ledger.received < COUNT {
            for _ in 0..random.usize(1..=20).min((COUNT - ledger.received) as usize) {
                ledger.enter(&receiver.recv().await.unwrap().expect("not drained"));
            }
            let (plain, taken) = receiver.into_std().unwrap();
            taken.into_iter().for_each(|datagram| ledger.enter(&datagram));
            let mut memory = [0; 64];
            for _ in 0..random.usize(0..=5) {
                if let Ok(len) = plain.recv(&mut memory) {
                    ledger.enter(&memory[..len]);
                }
            }
            receiver = UnixDatagram::from_std(plain).unwrap();
        }
        assert_eq!((ledger.received, ledger.holes), (COUNT, 0));
        sending.join().unwrap();
    });
}
