//! Senders with addresses of every kind and length.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket as Plain};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram as PlainUnix;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use ebbtide::net::{Address, Datagram, DatagramSocket, UdpSocket, UnixAddr, UnixDatagram};
use ebbtide::time::timeout;
use ebbtide_testkit::child::Beside;
use ebbtide_testkit::descriptor::duplicate;
use ebbtide_testkit::namespace::{add_address_v6, in_a_namespace};
use ebbtide_testkit::socket::left_in_queue;
use ebbtide_testkit::{Shape, Watchdog, on_every_shape, unique_name};

on_every_shape!(
    every_length_of_an_abstract_name_arrives,
    every_length_of_a_path_arrives,
    every_kind_of_internet_address_arrives,
);

/// Each sender sends twice. One datagram is received, the other drained. In both cases, senders
/// with shorter and with longer names come before it. `peers` is the number of senders.
async fn check<A: Address>(
    socket: &DatagramSocket<A>,
    peers: usize,
    send: impl Fn(usize),
    is: impl Fn(usize, &A) -> bool,
    describe: impl Fn(&A) -> String,
) {
    let order: Vec<usize> = (0..peers).chain((0..peers).rev()).collect();
    let verify = |peer: usize, datagram: Option<Datagram<A>>| {
        let datagram = datagram.expect("the datagram was sent");
        assert_eq!(datagram[..], peer.to_le_bytes());
        let named = datagram.peer();
        assert!(is(peer, &named), "{peer} is not {}", describe(&named));
    };
    for peer in &order {
        send(*peer);
        verify(*peer, arrival(socket).await);
    }
    // As many as fit into the queue of a Unix socket by default.
    for some in order.chunks(8) {
        some.iter().for_each(|peer| send(*peer));
        for peer in some {
            verify(*peer, arrival(socket).await);
        }
    }
    order[..8].iter().for_each(|peer| send(*peer));
    socket.drain().unwrap();
    for peer in &order[..8] {
        verify(*peer, socket.recv().await.unwrap());
    }
    assert!(socket.recv().await.unwrap().is_none());
}

/// Returns the next datagram, which was sent. Fails if it does not come.
async fn arrival<A: Address>(socket: &DatagramSocket<A>) -> Option<Datagram<A>> {
    let received = timeout(Duration::from_secs(60), socket.recv()).await;
    let deaf = |_| {
        let left = left_in_queue(&duplicate(socket));
        panic!("the socket receives nothing: {left} queued, {:?}", socket.stats())
    };
    received.unwrap_or_else(deaf).unwrap()
}

fn run(shape: Shape, scenario: impl Future<Output = ()>) {
    let _watchdog = Watchdog::new("addresses");
    shape.runtime().block_on(scenario);
}

/// A socket with an abstract name of `len` bytes, some of them zeros, that no other socket has.
fn with_abstract_name(len: usize, random: &mut fastrand::Rng) -> (PlainUnix, Vec<u8>) {
    for _ in 0..10_000 {
        let name: Vec<u8> =
            (0..len).map(|_| if random.usize(0..=2) == 0 { 0 } else { random.u8(..) }).collect();
        match PlainUnix::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()) {
            Ok(socket) => return (socket, name),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
        }
    }
    panic!("every name of {len} bytes is in use");
}

/// Fails when a name is cut, or assumed to end at its first zero.
fn every_length_of_an_abstract_name_arrives(shape: Shape) {
    let mut random = fastrand::Rng::with_seed(u64::from(std::process::id()));
    let senders: Vec<_> = (1..=107).map(|len| with_abstract_name(len, &mut random)).collect();
    run(shape, async {
        let name = unique_name("receiver");
        let socket = UnixDatagram::bind_addr(&name).unwrap();
        let send = |peer: usize| {
            let sent = senders[peer].0.send_to_addr(&peer.to_le_bytes(), &name);
            assert_eq!(sent.unwrap(), 8);
        };
        let is =
            |peer: usize, named: &UnixAddr| named.as_abstract_name() == Some(&senders[peer].1[..]);
        check(&socket, senders.len(), send, is, |named| format!("{named:?}")).await;
    });
}

/// A directory with a short name. It is removed with its contents.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/tmp/eb{:x}.{count:x}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn every_length_of_a_path_arrives(shape: Shape) {
    let directory = Directory::new();
    let least = directory.0.as_os_str().len() + 2;
    let mut senders: Vec<(PlainUnix, Option<PathBuf>)> = (least..=107)
        .map(|len| {
            let path = directory.0.join("p".repeat(len - least + 1));
            assert_eq!(path.as_os_str().len(), len);
            (PlainUnix::bind(&path).unwrap(), Some(path))
        })
        .collect();
    // A sender without a name between two with long names. It must not get a part of theirs.
    senders.push((PlainUnix::unbound().unwrap(), None));
    run(shape, async {
        let name = unique_name("receiver");
        let socket = UnixDatagram::bind_addr(&name).unwrap();
        let send = |peer: usize| {
            let sent = senders[peer].0.send_to_addr(&peer.to_le_bytes(), &name);
            assert_eq!(sent.unwrap(), 8);
        };
        let is = |peer: usize, named: &UnixAddr| {
            let path = senders[peer].1.as_deref();
            named.as_pathname() == path && named.is_unnamed() == path.is_none()
        };
        check(&socket, senders.len(), send, is, |named| format!("{named:?}")).await;
    });
}

/// Plain IPv4 and IPv6, and IPv4 mapped into IPv6.
fn every_kind_of_internet_address_arrives(shape: Shape) {
    let senders: Vec<Plain> =
        ["127.0.0.1:0", "127.255.255.254:0", "127.1.2.3:0", "127.0.0.1:65535"]
            .into_iter()
            .filter_map(|address| Plain::bind(address).ok())
            .collect();
    let of = |sender: &Plain| sender.local_addr().unwrap();
    run(shape, async {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap();
        let count = 8;
        let send = |peer: usize| {
            let sender = &senders[peer % senders.len()];
            assert_eq!(sender.send_to(&peer.to_le_bytes(), to).unwrap(), 8);
        };
        let is = |peer: usize, named: &SocketAddr| *named == of(&senders[peer % senders.len()]);
        check(&socket, count, send, is, SocketAddr::to_string).await;

        let Ok(socket) = UdpSocket::options().only_v6(false).bind("[::]:0") else {
            return println!("skipped: no IPv6");
        };
        let port = socket.local_addr().unwrap().port();
        let v6 = Plain::bind("[::1]:0").unwrap();
        let send = |peer: usize| {
            let sent = match peer % 2 {
                0 => v6.send_to(&peer.to_le_bytes(), ("::1", port)),
                _ => {
                    let sender = &senders[peer % senders.len()];
                    sender.send_to(&peer.to_le_bytes(), (Ipv4Addr::LOCALHOST, port))
                }
            };
            assert_eq!(sent.unwrap(), 8);
        };
        let is = |peer: usize, named: &SocketAddr| match peer % 2 {
            0 => *named == of(&v6),
            _ => {
                let sender = of(&senders[peer % senders.len()]);
                let SocketAddr::V4(v4) = sender else { return false };
                *named == SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
        };
        check(&socket, count, send, is, SocketAddr::to_string).await;
    });
}

#[test]
fn an_address_with_a_scope_arrives_with_it() {
    in_a_namespace(Beside::Others, || {
        let index = match add_address_v6("fe80::eb") {
            Ok(index) => index,
            Err(error) => return println!("skipped: no link-local address: {error}"),
        };
        let address: SocketAddr = format!("[fe80::eb%{index}]:0").parse().unwrap();
        for shape in Shape::ALL {
            run(shape, async {
                let socket = UdpSocket::bind(address).unwrap();
                let to = socket.local_addr().unwrap();
                let sender = Plain::bind(address).unwrap();
                let send = |peer: usize| {
                    assert_eq!(sender.send_to(&peer.to_le_bytes(), to).unwrap(), 8);
                };
                let from = sender.local_addr().unwrap();
                let SocketAddr::V6(scoped) = from else { panic!("the address is IPv6") };
                assert_ne!(scoped.scope_id(), 0);
                check(&socket, 8, send, |_, named| *named == from, SocketAddr::to_string).await;
            });
        }
    });
}
