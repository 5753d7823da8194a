//! Storms of ICMP errors. Each send to a closed port is answered by one.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket as Plain};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;

use ebbtide::Drain;
use ebbtide::net::UdpSocket;
use ebbtide::task::yield_now;
use ebbtide_testkit::descriptor::duplicate;
use ebbtide_testkit::report::assert_all_delivered;
use ebbtide_testkit::{Ledger, Shape, Watchdog, numbered, on_every_shape, turns, until};
use socket2::Socket;

on_every_shape!(
    a_storm_of_refusals_loses_no_datagram,
    errors_that_are_pending_at_the_seal_are_not_the_end,
    a_storm_of_errors_during_the_drain_is_not_the_end,
    senders_that_are_refused_are_heard_when_the_port_is_open_again,
);

#[derive(Default)]
struct Seen {
    ledger: Ledger,
    errors: u64,
}

/// A socket that is connected to a plain one, which sends and is then closed.
struct Peers {
    socket: Rc<UdpSocket>,
    address: SocketAddr,
    peer: SocketAddr,
    sent: u64,
    seen: Rc<RefCell<Seen>>,
}

impl Peers {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_recv_buffer_size(2 << 20).unwrap();
        let peer = Plain::bind((own_address(), 0)).unwrap().local_addr().unwrap();
        socket.connect(peer).unwrap();
        let this = Self {
            address: socket.local_addr().unwrap(),
            socket: Rc::new(socket),
            peer,
            sent: 0,
            seen: Rc::default(),
        };
        ebbtide::spawn(receive(Rc::clone(&this.socket), Rc::clone(&this.seen)));
        this
    }

    /// Opens the peer, sends, and closes it.
    fn peer_sends(&mut self, count: u64) {
        let peer = Plain::bind(self.peer).unwrap();
        for _ in 0..count {
            peer.send_to(&numbered(0, self.sent, 50), self.address).unwrap();
            self.sent += 1;
        }
    }

    /// Sends to the closed port.
    fn provoke(&self, count: u64) {
        for _ in 0..count {
            match self.socket.try_send(b"?") {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
            }
        }
    }

    fn check(&self, run: &str) {
        let Seen { ledger, .. } = &*self.seen.borrow();
        assert_eq!((ledger.received, ledger.holes), (self.sent, 0), "{run}");
    }
}

/// An address that nobody else uses, so that no other test gets a port that is closed and opened
/// again.
fn own_address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id() << 12 | COUNT.fetch_add(1, Ordering::Relaxed) & 0xfff;
    let [_, b, c, d] = number.to_be_bytes();
    Ipv4Addr::new(127, b | 1, c, d)
}

async fn receive(socket: Rc<UdpSocket>, seen: Rc<RefCell<Seen>>) {
    loop {
        match socket.recv().await {
            Ok(Some(datagram)) => seen.borrow_mut().ledger.enter(&datagram),
            Ok(None) => return,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
                seen.borrow_mut().errors += 1;
            }
        }
    }
}

/// Fails when a socket no longer receives after an error.
fn a_storm_of_refusals_loses_no_datagram(shape: Shape) {
    let _watchdog = Watchdog::new("refusals");
    let runtime = shape.runtime();
    let peers = runtime.block_on(async {
        let mut peers = Peers::new();
        for round in 0..300 {
            peers.peer_sends(round % 5);
            for _ in 0..round % 4 {
                peers.provoke(1 + round % 7);
                yield_now().await;
            }
        }
        until(|| peers.seen.borrow().ledger.received == peers.sent).await;
        assert!(peers.seen.borrow().errors > 100);
        peers.peer_sends(100);
        peers.provoke(100);
        peers
    });
    let report = runtime.shutdown(Drain::default());
    assert_all_delivered(&report);
    peers.check(&format!("{}: {report}", shape.name));
    assert_eq!(report.stats.errors, peers.seen.borrow().errors);
}

/// Fails when a drain stops reading at an error.
fn errors_that_are_pending_at_the_seal_are_not_the_end(shape: Shape) {
    let _watchdog = Watchdog::new("pending errors");
    for turns in 0..3 {
        let runtime = shape.runtime();
        let peers: Vec<Peers> = runtime.block_on(async {
            let mut peers: Vec<Peers> = (0..64).map(|_| Peers::new()).collect();
            peers.iter_mut().for_each(|peers| peers.peer_sends(20));
            for _ in 0..turns {
                yield_now().await;
            }
            peers.iter().for_each(|peers| peers.provoke(1));
            peers
        });
        let report = runtime.shutdown(Drain::default());
        assert_all_delivered(&report);
        peers.iter().for_each(|peers| peers.check(&format!("{}: {report}", shape.name)));
        assert_eq!(report.stats.errors, 64, "{report}");
    }
}

/// Two other threads provoke errors on the same socket, as fast as they can, during the whole
/// drain.
fn a_storm_of_errors_during_the_drain_is_not_the_end(shape: Shape) {
    let _watchdog = Watchdog::new("a storm of errors");
    let mut errors = 0;
    for _ in 0..10 {
        let runtime = shape.runtime();
        let (stop, provoked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (peers, threads) = runtime.block_on(async {
            let mut peers = Peers::new();
            peers.peer_sends(800);
            let provoker = |socket: Socket| {
                let (stop, provoked) = (Arc::clone(&stop), Arc::clone(&provoked));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let _ = socket.send(b"?");
                        provoked.fetch_add(1, Ordering::Relaxed);
                    }
                })
            };
            let threads = [duplicate(&*peers.socket), duplicate(&*peers.socket)].map(provoker);
            (peers, threads)
        });
        while provoked.load(Ordering::Relaxed) < 100 {
            thread::yield_now();
        }
        let report = runtime.shutdown(Drain::default());
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_all_delivered(&report);
        peers.check(&format!("{}: {report}", shape.name));
        errors += report.stats.errors;
    }
    println!("{}: {errors} errors during 10 drains", shape.name);
}

/// The other direction: peers get the errors of our closed port, and go on.
fn senders_that_are_refused_are_heard_when_the_port_is_open_again(shape: Shape) {
    let _watchdog = Watchdog::new("refused senders");
    let runtime = shape.runtime();
    runtime.block_on(async {
        let mut socket = UdpSocket::bind((own_address(), 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let peers: Vec<Plain> = (0..3).map(|_| Plain::bind("127.0.0.1:0").unwrap()).collect();
        peers.iter().for_each(|peer| peer.connect(address).unwrap());
        let mut numbers = [0; 3];
        let mut refused = 0;
        for _ in 0..50 {
            drop(socket);
            for _ in 0..5 {
                refused += peers.iter().filter(|peer| peer.send(b"?").is_err()).count();
            }
            socket = UdpSocket::bind(address).unwrap();
            let mut ledger = Ledger::default();
            let before: u64 = numbers.iter().sum();
            for (sender, peer) in (0..).zip(&peers) {
                for _ in 0..5 {
                    let number = &mut numbers[sender as usize];
                    let payload = numbered(sender, *number, 20);
                    // The first send may return the error of an earlier one, and is then not sent.
                    if peer.send(&payload).is_ok() || peer.send(&payload).is_ok() {
                        *number += 1;
                    }
                }
            }
            let sent = numbers.iter().sum::<u64>() - before;
            assert_eq!(sent, 15);
            while ledger.received < sent {
                ledger.enter(&socket.recv().await.unwrap().expect("not drained"));
            }
            turns(5).await;
        }
        assert!(refused > 50, "few sends were refused");
    });
}
