//! An empty datagram is delivered like any other, with its address.

use ebbtide::net::{Address, DatagramSocket, UdpSocket, UnixAddr, UnixDatagram};
use ebbtide_testkit::{Shape, on_every_shape, unique_name};
use socket2::{SockAddr, Socket};

on_every_shape!(
    ten_thousand_empty_datagrams_arrive_with_their_address,
    empty_datagrams_keep_their_place_among_others,
    the_drain_reads_on_after_an_empty_datagram,
    recv_from_tells_an_empty_datagram_from_the_end,
);

const COUNT: usize = 10_000;
/// How many datagrams fit into every queue: a Unix queue of the smallest usual length, and a
/// receive buffer.
const BATCH: usize = 8;

/// Runs an async scenario on each kind of pair.
macro_rules! on_every_kind {
    ($shape:expr, $scenario:expr) => {
        $shape.run(async {
            for pair in &udp() {
                $scenario(pair).await;
            }
            for pair in &unix() {
                $scenario(pair).await;
            }
        })
    };
}

/// The socket under test, and a plain one that sends to it.
struct Pair<A> {
    kind: &'static str,
    receiver: DatagramSocket<A>,
    sender: Socket,
    /// `None` if the sender is connected.
    to: Option<SockAddr>,
    /// The expected result of `peer`.
    from: A,
}

impl<A> Pair<A> {
    fn send(&self, payload: &[u8]) {
        match &self.to {
            Some(address) => self.sender.send_to(payload, address).unwrap(),
            None => self.sender.send(payload).unwrap(),
        };
    }
}

fn udp() -> [Pair<std::net::SocketAddr>; 2] {
    let pair = || {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (to, from) = (receiver.local_addr().unwrap(), sender.local_addr().unwrap());
        let sender = Socket::from(sender);
        Pair { kind: "UDP", receiver: receiver.into(), sender, to: Some(to.into()), from }
    };
    let Pair { receiver, sender, to, from, .. } = pair();
    sender.connect(&to.unwrap()).unwrap();
    let receiver = UdpSocket::from(receiver);
    receiver.connect(from).unwrap();
    let receiver = receiver.into();
    [pair(), Pair { kind: "UDP, connected", receiver, sender, to: None, from }]
}

fn unix() -> [Pair<UnixAddr>; 3] {
    use std::os::unix::net::UnixDatagram as Plain;
    let unconnected = |kind, sender: Plain| {
        let receiver = Plain::bind_addr(&unique_name("receiver")).unwrap();
        let to = Socket::from(receiver.try_clone().unwrap()).local_addr().unwrap();
        let from = sender.local_addr().unwrap();
        let receiver = UnixDatagram::from_std(receiver).unwrap().into();
        Pair { kind, receiver, sender: sender.into(), to: Some(to), from }
    };
    let unnamed = unconnected("Unix, unnamed sender", Plain::unbound().unwrap());
    let sender = Plain::bind_addr(&unique_name("sender")).unwrap();
    let named = unconnected("Unix, named sender", sender);
    let (receiver, sender) = Plain::pair().unwrap();
    let from = sender.local_addr().unwrap();
    let receiver = UnixDatagram::from_std(receiver).unwrap().into();
    let pair = Pair { kind: "Unix, connected", receiver, sender: sender.into(), to: None, from };
    [unnamed, named, pair]
}

/// An address in comparable form. Unix addresses cannot be compared.
fn shown(address: &impl std::fmt::Debug) -> String {
    format!("{address:?}")
}

/// Fails when a receive that an empty datagram has ended is not armed again.
fn ten_thousand_empty_datagrams_arrive_with_their_address(shape: Shape) {
    async fn scenario<A: Address + std::fmt::Debug>(pair: &Pair<A>) {
        let from = shown(&pair.from);
        for _ in 0..COUNT / BATCH {
            (0..BATCH).for_each(|_| pair.send(b""));
            for _ in 0..BATCH {
                let datagram = pair.receiver.recv().await.unwrap().expect(pair.kind);
                assert_eq!((datagram.len(), datagram.original_len()), (0, 0), "{}", pair.kind);
                assert_eq!(shown(&datagram.peer()), from, "{}", pair.kind);
            }
        }
        let stats = pair.receiver.stats();
        assert_eq!((stats.received, stats.truncated), (COUNT as u64, 0), "{}", pair.kind);
    }
    on_every_kind!(shape, scenario);
}

/// Payloads, of which about half are empty.
fn payloads(random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let len = |random: &mut fastrand::Rng| random.usize(0..=1) * random.usize(0..=1_400);
    (0..BATCH).map(|number| vec![number as u8; len(random)]).collect()
}

fn empty_datagrams_keep_their_place_among_others(shape: Shape) {
    async fn scenario<A: Address>(pair: &Pair<A>) {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let payloads = payloads(&mut random);
            payloads.iter().for_each(|payload| pair.send(payload));
            for payload in payloads {
                let datagram = pair.receiver.recv().await.unwrap().expect(pair.kind);
                assert_eq!(datagram[..], payload, "{}", pair.kind);
            }
        }
    }
    on_every_kind!(shape, scenario);
}

/// Fails when the drain stops reading at an empty datagram.
fn the_drain_reads_on_after_an_empty_datagram(shape: Shape) {
    async fn scenario<A: Address + std::fmt::Debug>(pair: &Pair<A>) {
        let payloads: Vec<_> = [b"" as &[u8], b"1", b"", b"", b"4", b"5", b"", b""].into();
        payloads.iter().for_each(|payload| pair.send(payload));
        pair.receiver.drain().unwrap();
        for payload in payloads {
            let datagram = pair.receiver.recv().await.unwrap().expect(pair.kind);
            assert_eq!(datagram[..], *payload, "{}", pair.kind);
            assert_eq!(shown(&datagram.peer()), shown(&pair.from), "{}", pair.kind);
        }
        assert!(pair.receiver.recv().await.unwrap().is_none(), "{}", pair.kind);
    }
    on_every_kind!(shape, scenario);
}

fn recv_from_tells_an_empty_datagram_from_the_end(shape: Shape) {
    async fn scenario<A: Address + std::fmt::Debug>(pair: &Pair<A>) {
        pair.send(b"");
        let (len, peer) = pair.receiver.recv_from(&mut []).await.unwrap().expect(pair.kind);
        assert_eq!((len, shown(&peer)), (0, shown(&pair.from)), "{}", pair.kind);
        pair.receiver.drain().unwrap();
        assert!(pair.receiver.recv_from(&mut []).await.unwrap().is_none(), "{}", pair.kind);
    }
    on_every_kind!(shape, scenario);
}
