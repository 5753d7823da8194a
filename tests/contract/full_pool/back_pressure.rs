//! A full pool is back-pressure, not an error. Datagrams wait in the kernel, nothing spins, sockets
//! resume by themselves, and an unread socket does not stop others.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use ebbtide::net::{Address, Datagram, DatagramSocket, UdpSocket, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::{sleep, timeout};
use ebbtide::{Drain, Runtime};
use ebbtide_testkit::descriptor::duplicate;
use ebbtide_testkit::socket::left_in_queue;
use ebbtide_testkit::{Ledger, Shape, numbered, on_every_shape, run};
use futures_util::FutureExt;
use socket2::Socket;

on_every_shape!(
    a_starved_socket_waits_without_spinning,
    receiving_resumes_when_one_datagram_is_dropped,
    a_single_buffer_is_enough_before_sleeping,
    a_single_buffer_is_enough_after_some_busy_turns,
    a_buffer_that_comes_back_makes_no_other_socket_fail_again,
    the_drain_delivers_although_the_pool_is_empty,
    shutdown_delivers_although_the_pool_is_empty,
    an_unread_socket_stops_no_other,
    twenty_unread_sockets_stop_no_other,
    a_program_that_keeps_every_datagram_is_bounded_by_the_pool,
    a_datagram_outlives_its_socket_and_its_runtime,
);

const POOL: usize = 4;
/// How many small datagrams fit into a receive buffer of the default size. This is many times the
/// pool.
const TOTAL: u64 = 200;
/// One enter delivers at most this many datagrams to one armed socket.
const BURST: usize = 33;

/// A socket of the runtime, and a plain one that is connected to it.
type Pair<A> = (DatagramSocket<A>, Socket);

fn unix() -> Pair<ebbtide::net::UnixAddr> {
    let (receiver, sender) = std::os::unix::net::UnixDatagram::pair().unwrap();
    sender.set_nonblocking(true).unwrap();
    (UnixDatagram::from_std(receiver).unwrap().into(), sender.into())
}

fn udp() -> Pair<std::net::SocketAddr> {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    sender.set_nonblocking(true).unwrap();
    (receiver.into(), sender.into())
}

fn with_pool(shape: Shape, buffers: usize) -> Runtime {
    shape.builder().buffers(buffers).build().unwrap()
}

/// Sends the datagrams from `next` to `end`, as many as fit into the queue.
fn send_numbered(sender: &Socket, next: &mut u64, end: u64) {
    while *next < end {
        match sender.send(&numbered(0, *next, 12)) {
            Ok(_) => *next += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn receive<A: Address>(socket: &DatagramSocket<A>) -> Datagram<A> {
    socket.recv().await.unwrap().expect("not drained")
}

/// A program that receives and keeps every datagram of a sender that sends `TOTAL`.
struct Hoarder<A> {
    socket: DatagramSocket<A>,
    sender: Socket,
    sent: u64,
    kept: VecDeque<Datagram<A>>,
    ledger: Ledger,
}

impl<A: Address> Hoarder<A> {
    fn new((socket, sender): Pair<A>) -> Self {
        Self { socket, sender, sent: 0, kept: VecDeque::new(), ledger: Ledger::default() }
    }

    fn keep(&mut self, datagram: Datagram<A>) {
        self.ledger.enter(&datagram);
        self.kept.push_back(datagram);
    }

    /// Keeps what comes until nothing has come for 20 turns.
    async fn keep_until_starved(&mut self) {
        let mut quiet_turns = 0;
        // A machine may take longer than that for what was sent (docs/kernel.md, K-CPU-4).
        while quiet_turns < 20 || self.kept.len() < POOL {
            quiet_turns += 1;
            send_numbered(&self.sender, &mut self.sent, TOTAL);
            yield_now().await;
            while let Ok(datagram) = self.socket.try_recv() {
                self.keep(datagram.expect("not drained"));
                quiet_turns = 0;
            }
        }
        assert!(self.ledger.received < self.sent, "the socket never starved");
    }

    async fn keep_until_drained(&mut self) {
        while let Some(datagram) = self.socket.recv().await.unwrap() {
            self.keep(datagram);
        }
    }

    fn assert_lossless(&self) {
        assert_eq!((self.ledger.received, self.ledger.holes), (self.sent, 0));
        assert_eq!(left_in_queue(&duplicate(&self.socket)), 0);
    }
}

/// Fails when a starved socket is armed again before a buffer is free.
fn a_starved_socket_waits_without_spinning(shape: Shape) {
    fn scenario<A: Address>(shape: Shape, pair: fn() -> Pair<A>) {
        let runtime = with_pool(shape, POOL);
        let hoarder = run(&runtime, async {
            let mut hoarder = Hoarder::new(pair());
            hoarder.keep_until_starved().await;
            hoarder
        });
        let before = runtime.metrics();
        let received = run(&runtime, timeout(Duration::from_millis(300), hoarder.socket.recv()));
        assert!(received.is_err());
        let after = runtime.metrics();
        let (turns, enters) = (after.turns - before.turns, after.enters - before.enters);
        // What comes late may wake it once for each datagram (docs/kernel.md, K-CPU-4).
        let most = 20 + TOTAL;
        assert!(turns <= most && enters <= most, "{turns} turns, {enters} enters");
    }
    scenario(shape, unix);
    scenario(shape, udp);
}

/// Fails when a starved socket is never armed again.
fn receiving_resumes_when_one_datagram_is_dropped(shape: Shape) {
    fn scenario<A: Address>(shape: Shape, pair: fn() -> Pair<A>) {
        let runtime = with_pool(shape, POOL);
        run(&runtime, async {
            let mut hoarder = Hoarder::new(pair());
            hoarder.keep_until_starved().await;
            while hoarder.kept.len() >= POOL {
                hoarder.kept.pop_front();
            }
            while hoarder.ledger.received < TOTAL {
                send_numbered(&hoarder.sender, &mut hoarder.sent, TOTAL);
                let datagram = receive(&hoarder.socket).await;
                hoarder.keep(datagram);
                hoarder.kept.pop_front();
            }
            hoarder.assert_lossless();
        });
    }
    scenario(shape, unix);
    scenario(shape, udp);
}

/// Before it sleeps, a runtime arms a starved socket even for a single free buffer. Fails when it
/// waits for several, as a busy runtime does at first.
fn a_single_buffer_is_enough_before_sleeping(shape: Shape) {
    let runtime = with_pool(shape, 16 * POOL);
    run(&runtime, async {
        let mut hoarder = Hoarder::new(udp());
        hoarder.keep_until_starved().await;
        for _ in 0..10 {
            let mut other = Hoarder::new(udp());
            send_numbered(&other.sender, &mut other.sent, 1);
            while runtime.metrics().free_buffers == 0 {
                hoarder.kept.pop_front();
            }
            other.keep(receive(&other.socket).await);
            hoarder.kept.append(&mut other.kept);
        }
    });
}

/// A busy runtime waits for several buffers of a large pool, but not for ever. Fails when it waits
/// for ever.
fn a_single_buffer_is_enough_after_some_busy_turns(shape: Shape) {
    let runtime = with_pool(shape, 16 * POOL);
    run(&runtime, async {
        let mut hoarder = Hoarder::new(udp());
        hoarder.keep_until_starved().await;
        while runtime.metrics().free_buffers == 0 {
            hoarder.kept.pop_front();
        }
        for _turn in 0..1_000 {
            yield_now().await;
        }
        assert!(
            hoarder.socket.stats().received > hoarder.ledger.received,
            "the socket receives nothing"
        );
    });
}

/// Fails when more sockets are armed again than there are buffers.
fn a_buffer_that_comes_back_makes_no_other_socket_fail_again(shape: Shape) {
    const OTHERS: usize = 20;
    let runtime = with_pool(shape, POOL);
    run(&runtime, async {
        let mut hoarder = Hoarder::new(udp());
        hoarder.keep_until_starved().await;
        let mut others: Vec<_> = (0..OTHERS).map(|_| Hoarder::new(unix())).collect();
        others.iter_mut().for_each(|other| send_numbered(&other.sender, &mut other.sent, 1));
        while runtime.metrics().free_buffers == 0 {
            hoarder.kept.pop_front();
        }
        for other in &mut others {
            let datagram = receive(&other.socket).await;
            other.ledger.enter(&datagram);
        }
        let failed: u64 = others.iter().map(|other| other.socket.stats().starved).sum();
        assert!(failed <= 2, "{failed} receives ran out of buffers");
    });
}

/// At first the kernel gets only a few of the buffers. Fails when it runs out of them again and
/// again although others are free. Each time costs a failed receive.
#[test]
fn a_pool_that_ran_out_gives_the_kernel_more() {
    const ROUNDS: u64 = 20;
    const EACH: u64 = 30;
    let runtime = with_pool(Shape::DEFAULT, 512);
    run(&runtime, async {
        let mut sockets: Vec<_> = (0..10).map(|_| Hoarder::new(unix())).collect();
        let mut starved = Vec::new();
        for round in 1..=ROUNDS {
            for socket in &mut sockets {
                send_numbered(&socket.sender, &mut socket.sent, round * EACH);
                assert_eq!(socket.sent, round * EACH);
            }
            for socket in &mut sockets {
                while socket.ledger.received < socket.sent {
                    let datagram = receive(&socket.socket).await;
                    socket.ledger.enter(&datagram);
                }
            }
            starved.push(sockets.iter().map(|it| it.socket.stats().starved).sum::<u64>());
        }
        assert_eq!(starved[ROUNDS as usize - 1], starved[ROUNDS as usize / 2], "{starved:?}");
    });
}

/// Fails when the drain reads only into the pool.
fn the_drain_delivers_although_the_pool_is_empty(shape: Shape) {
    fn scenario<A: Address>(shape: Shape, pair: fn() -> Pair<A>) {
        let runtime = with_pool(shape, POOL);
        run(&runtime, async {
            let mut hoarder = Hoarder::new(pair());
            hoarder.keep_until_starved().await;
            hoarder.socket.drain().unwrap();
            hoarder.keep_until_drained().await;
            hoarder.assert_lossless();
        });
    }
    scenario(shape, unix);
    scenario(shape, udp);
}

fn shutdown_delivers_although_the_pool_is_empty(shape: Shape) {
    fn scenario<A: Address + 'static>(shape: Shape, pair: fn() -> Pair<A>) {
        let runtime = with_pool(shape, POOL);
        let mut hoarder = run(&runtime, async {
            let mut hoarder = Hoarder::new(pair());
            hoarder.keep_until_starved().await;
            hoarder
        });
        let keeping = runtime.spawn(async move {
            hoarder.keep_until_drained().await;
            hoarder.assert_lossless();
            hoarder.sent
        });
        let report = runtime.shutdown(Drain::default());
        let sent = keeping.now_or_never().expect("the receiver got the end").unwrap();
        assert_eq!((report.stats.delivered, report.undelivered), (sent, 0), "{report}");
    }
    scenario(shape, unix);
    scenario(shape, udp);
}

/// Floods `unread` sockets that nobody reads, and counts what arrives at `read` other sockets at
/// the same time.
fn others_receive_beside_unread<A: Address>(
    runtime: &Runtime,
    pair: fn() -> Pair<A>,
    unread: usize,
    read: usize,
) {
    const EACH: u64 = 20;
    run(runtime, async {
        let unread: Vec<_> = (0..unread).map(|_| pair()).collect();
        let mut read: Vec<_> = (0..read).map(|_| Hoarder::new(pair())).collect();
        for number in 0..EACH {
            unread.iter().for_each(|(_, sender)| send_numbered(sender, &mut 0, TOTAL));
            yield_now().await;
            for other in &mut read {
                send_numbered(&other.sender, &mut other.sent, number + 1);
            }
            for other in &mut read {
                let datagram = receive(&other.socket).await;
                other.ledger.enter(&datagram);
            }
        }
        assert!(read.iter().all(|other| other.sent == EACH));
        read.iter().for_each(Hoarder::assert_lossless);
    });
}

/// Fails when a socket may hold the whole pool.
fn an_unread_socket_stops_no_other(shape: Shape) {
    others_receive_beside_unread(&shape.runtime(), unix, 1, 99);
    others_receive_beside_unread(&shape.runtime(), udp, 1, 99);
}

/// Fails when the datagram that takes a socket over its share stays in the pool, because a few
/// unread sockets then hold all of a small pool for good.
fn twenty_unread_sockets_stop_no_other(shape: Shape) {
    for buffers in [4, 16] {
        others_receive_beside_unread(&with_pool(shape, buffers), unix, 20, 1);
        others_receive_beside_unread(&with_pool(shape, buffers), udp, 20, 1);
    }
}

/// Fails when datagrams outside the pool do not count as held.
fn a_program_that_keeps_every_datagram_is_bounded_by_the_pool(shape: Shape) {
    const SOCKETS: usize = 4;
    for buffers in [POOL, 4 * POOL] {
        let runtime = with_pool(shape, buffers);
        run(&runtime, async {
            let mut hoarders: Vec<_> = (0..SOCKETS).map(|_| Hoarder::new(udp())).collect();
            for hoarder in &mut hoarders {
                send_numbered(&hoarder.sender, &mut hoarder.sent, TOTAL);
            }
            // Nobody reads at first, so some datagrams leave the pool.
            sleep(Duration::from_millis(5)).await;
            while hoarders.iter().any(|hoarder| hoarder.ledger.received < TOTAL) {
                for _turn in 0..20 {
                    for hoarder in &mut hoarders {
                        while let Ok(datagram) = hoarder.socket.try_recv() {
                            hoarder.keep(datagram.expect("not drained"));
                        }
                    }
                    yield_now().await;
                }
                let kept: usize = hoarders.iter().map(|hoarder| hoarder.kept.len()).sum();
                assert!(kept > 0, "no socket receives");
                assert!(kept <= buffers + SOCKETS * BURST, "{kept} from {buffers} buffers");
                hoarders.iter_mut().for_each(|hoarder| hoarder.kept.clear());
            }
            hoarders.iter().for_each(Hoarder::assert_lossless);
        });
    }
}

/// The three kinds of memory: a buffer of the pool, a copy of one, and a direct read of the drain.
fn a_datagram_outlives_its_socket_and_its_runtime(shape: Shape) {
    let runtime = with_pool(shape, POOL);
    let (mut kept, peer) = run(&runtime, async {
        let mut hoarder = Hoarder::new(udp());
        hoarder.keep_until_starved().await;
        hoarder.socket.drain().unwrap();
        hoarder.keep_until_drained().await;
        (hoarder.kept, hoarder.sender.local_addr().unwrap().as_socket().unwrap())
    });
    runtime.shutdown(Drain::default());
    for number in 0..TOTAL - 1 {
        let datagram = kept.pop_front().unwrap();
        assert_eq!(datagram[..], numbered(0, number, 12)[..]);
        assert_eq!(datagram.peer(), peer);
    }
    // Dropped in a runtime that did not receive them.
    shape.runtime().block_on(async { drop(kept) });
}
