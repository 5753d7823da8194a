//! What a UDP socket does, method by method.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use ebbtide::net::{SocketStats, Transmit, UdpSocket};
use ebbtide::task::yield_now;
use ebbtide_testkit::descriptor::duplicate;
use ebbtide_testkit::{Ledger, Shape, numbered, on_every_shape, parse};
use futures_util::FutureExt;
use futures_util::{StreamExt, TryStreamExt};
use socket2::SockFilter;

use crate::assert_same_error;

on_every_shape!(
    port_zero_gives_a_port_and_taking_it_twice_fails,
    errors_are_those_of_std,
    every_way_to_send_arrives,
    a_connected_socket_hears_only_its_peer,
    recv_from_cuts_off_what_does_not_fit,
    recv_batch_takes_what_has_arrived,
    try_recv_looks_into_the_kernel,
    incoming_ends_when_the_socket_is_drained,
    a_round_trip_through_std_loses_and_doubles_nothing,
    an_address_is_free_although_a_dropped_wait_is_in_flight,
    a_drained_socket_that_is_given_back_receives_again,
    a_filter_of_the_program_survives_the_drain_and_the_way_back,
    a_filter_attached_after_the_seal_stays,
    options_are_those_of_the_kernel,
    a_multicast_group_is_joined_and_left,
    sockets_share_a_port_where_all_ask_for_it,
    ipv6_works_like_ipv4,
    the_counts_balance,
);

/// The number of small datagrams that fit into a receive buffer of the default size.
const BACKLOG: u64 = 100;

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

/// A sender that is connected to `receiver`.
fn sender_to(receiver: &UdpSocket) -> std::net::UdpSocket {
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(address(receiver)).unwrap();
    sender
}

fn send_numbered(sender: &std::net::UdpSocket, numbers: std::ops::Range<u64>) {
    for number in numbers {
        sender.send(&numbered(0, number, 12)).unwrap();
    }
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    socket.recv().await.unwrap().expect("not drained").to_vec()
}

#[test]
fn outside_a_runtime_a_socket_is_refused_with_the_reason() {
    let error = UdpSocket::bind("127.0.0.1:0").unwrap_err();
    assert!(error.to_string().contains("no ebbtide runtime on this thread"), "{error}");
}

fn port_zero_gives_a_port_and_taking_it_twice_fails(shape: Shape) {
    shape.run(async {
        let first = socket();
        assert!(address(&first).ip().is_loopback() && address(&first).port() != 0);
        let error = UdpSocket::bind(address(&first)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        // The first address that can be bound is used.
        let second = UdpSocket::bind(&[address(&first), "127.0.0.1:0".parse().unwrap()][..]);
        assert_ne!(address(&second.unwrap()), address(&first));
        let freed = address(&first);
        drop(first);
        UdpSocket::bind(freed).unwrap();
    });
}

/// Fails when an error is wrapped in a custom error, which has no errno, and often no kind.
fn errors_are_those_of_std(shape: Shape) {
    shape.run(async {
        let plain = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = plain.local_addr().unwrap();
        for addr in [taken, "192.0.2.1:0".parse().unwrap(), "[fe80::1%77]:0".parse().unwrap()] {
            let plainly = std::net::UdpSocket::bind(addr).map(drop);
            assert_same_error("bind", UdpSocket::bind(addr).map(drop), plainly);
        }
        let none: &[SocketAddr] = &[];
        let plainly = std::net::UdpSocket::bind(none).map(drop);
        assert_same_error("bind to nothing", UdpSocket::bind(none).map(drop), plainly);
        let plainly = std::net::UdpSocket::bind("no address").map(drop);
        assert_same_error("bind to a word", UdpSocket::bind("no address").map(drop), plainly);

        let socket = socket();
        let too_long = vec![0; 65_508];
        let plainly = plain.send_to(&too_long, taken).map(drop);
        let ours = socket.send_to(&too_long, taken).await.map(drop);
        assert_same_error("send_to, too long", ours, plainly);
        for addr in ["[::1]:9", "255.255.255.255:9"] {
            assert_same_error("connect", socket.connect(addr), plain.connect(addr));
            let plainly = || plain.send_to(b"", addr).map(drop);
            assert_same_error("send_to", socket.send_to(b"", addr).await.map(drop), plainly());
            assert_same_error("try_send_to", socket.try_send_to(b"", addr).map(drop), plainly());
            let transmit = Transmit::to(b"", addr.parse().unwrap());
            let ours = socket.transmit(transmit).await.map(drop);
            assert_same_error("transmit", ours, plainly());
        }
        socket.set_coalescing(true);
        let ours = socket.send_to(b"", "[::1]:9").await.map(drop);
        assert_same_error("coalesced", ours, plain.send_to(b"", "[::1]:9").map(drop));
        let ours = socket.send_to(b"", "no address").await.map(drop);
        assert_same_error("no address", ours, plain.send_to(b"", "no address").map(drop));
        let ours = socket.send(b"").await.map(drop);
        assert_same_error("send", ours, plain.send(b"").map(drop));

        let closed = {
            let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            gone.local_addr().unwrap()
        };
        socket.connect(closed).unwrap();
        plain.connect(closed).unwrap();
        socket.send(b"").await.unwrap();
        plain.send(b"").unwrap();
        let ours = socket.recv().await.map(drop);
        assert_same_error("recv", ours, plain.recv(&mut []).map(drop));
    });
}

fn every_way_to_send_arrives(shape: Shape) {
    shape.run(async {
        let (sender, receiver) = (socket(), socket());
        assert_eq!(sender.send_to(b"send_to", address(&receiver)).await.unwrap(), 7);
        assert_eq!(sender.try_send_to(b"try_send_to", address(&receiver)).unwrap(), 11);
        sender.connect(address(&receiver)).unwrap();
        assert_eq!(sender.send(b"send").await.unwrap(), 4);
        assert_eq!(sender.try_send(b"try_send").unwrap(), 8);
        for sent in ["send_to", "try_send_to", "send", "try_send"] {
            let datagram = receiver.recv().await.unwrap().unwrap();
            assert_eq!((&datagram[..], datagram.peer()), (sent.as_bytes(), address(&sender)));
        }
        sender.writable().await.unwrap();
    });
}

fn a_connected_socket_hears_only_its_peer(shape: Shape) {
    shape.run(async {
        let (socket, peer, stranger) = (socket(), socket(), socket());
        assert_eq!(socket.peer_addr().unwrap_err().kind(), io::ErrorKind::NotConnected);
        stranger.try_send_to(b"before", address(&socket)).unwrap();
        socket.connect(address(&peer)).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), address(&peer));
        stranger.try_send_to(b"after", address(&socket)).unwrap();
        peer.try_send_to(b"peer", address(&socket)).unwrap();
        assert_eq!(receive(&socket).await, b"before");
        assert_eq!(receive(&socket).await, b"peer");
    });
}

fn recv_from_cuts_off_what_does_not_fit(shape: Shape) {
    shape.run(async {
        let receiver = socket();
        let sender = sender_to(&receiver);
        let from = sender.local_addr().unwrap();
        sender.send(b"too long").unwrap();
        sender.send(b"fits").unwrap();
        let mut memory = [0; 4];
        for expected in [b"too ", b"fits"] {
            let received = receiver.recv_from(&mut memory).await.unwrap();
            assert_eq!((received, &memory), (Some((4, from)), expected));
        }
        receiver.drain().unwrap();
        assert!(receiver.recv_from(&mut memory).await.unwrap().is_none());
    });
}

fn recv_batch_takes_what_has_arrived(shape: Shape) {
    shape.run(async {
        let receiver = socket();
        send_numbered(&sender_to(&receiver), 0..BACKLOG);
        let mut batch = Vec::new();
        assert_eq!(receiver.recv_batch(&mut batch, 0).await.unwrap(), 0);
        let mut ledger = Ledger::default();
        let mut largest = 0;
        while ledger.received < BACKLOG {
            let before = batch.len();
            let count = receiver.recv_batch(&mut batch, 3).await.unwrap();
            assert!((1..=3).contains(&count) && batch.len() == before + count, "{count}");
            largest = largest.max(count);
            batch[before..].iter().for_each(|datagram| ledger.enter(datagram));
            // It appends, so the vector sometimes holds datagrams before.
            batch.truncate(usize::from(before == 0));
        }
        assert_eq!((largest, ledger.holes), (3, 0));
        receiver.drain().unwrap();
        assert_eq!(receiver.recv_batch(&mut batch, 3).await.unwrap(), 0);
    });
}

/// Fails when `try_recv` checks only the inbox.
fn try_recv_looks_into_the_kernel(shape: Shape) {
    shape.run(async {
        let receiver = socket();
        assert_eq!(receiver.try_recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let sender = sender_to(&receiver);
        for number in 0..BACKLOG {
            send_numbered(&sender, number..number + 1);
            let datagram = receiver.try_recv().unwrap().expect("not drained");
            assert_eq!(parse(&datagram), (0, number));
        }
        assert_eq!(receiver.try_recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(receiver.stats().errors, 0);
        sender.send(b"last").unwrap();
        receiver.drain().unwrap();
        assert_eq!(receiver.try_recv().unwrap().unwrap()[..], *b"last");
        assert!(receiver.try_recv().unwrap().is_none());
    });
}

fn incoming_ends_when_the_socket_is_drained(shape: Shape) {
    shape.run(async {
        let receiver = socket();
        send_numbered(&sender_to(&receiver), 0..BACKLOG);
        let mut ledger = Ledger::default();
        let mut incoming = receiver.incoming();
        ledger.enter(&incoming.next().await.unwrap().unwrap());
        drop(incoming);
        receiver.drain().unwrap();
        let mut rest = receiver.incoming();
        while let Some(datagram) = rest.try_next().await.unwrap() {
            ledger.enter(&datagram);
        }
        assert_eq!((ledger.received, ledger.holes), (BACKLOG, 0));
    });
}

/// Fails when the socket is returned before its receive has ended.
fn a_round_trip_through_std_loses_and_doubles_nothing(shape: Shape) {
    shape.run(async {
        let mut receiver = socket();
        let sender = sender_to(&receiver);
        let mut random = fastrand::Rng::with_seed(4);
        let mut ledger = Ledger::default();
        let mut sent = 0;
        for _ in 0..200 {
            let backlog = random.usize(0..=BACKLOG as usize) as u64;
            send_numbered(&sender, sent..sent + backlog);
            sent += backlog;
            for _ in 0..random.usize(0..=3) {
                yield_now().await;
            }
            while random.usize(0..=3) > 0
                && let Ok(datagram) = receiver.try_recv()
            {
                ledger.enter(&datagram.expect("not drained"));
            }
            let (plain, taken) = receiver.into_std().unwrap();
            taken.into_iter().for_each(|datagram| ledger.enter(&datagram));
            let mut memory = [0; 64];
            for _ in 0..random.usize(0..=BACKLOG as usize) {
                match plain.recv(&mut memory) {
                    Ok(len) => ledger.enter(&memory[..len]),
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        assert_eq!(ledger.received, sent);
                        break;
                    }
                }
            }
            receiver = UdpSocket::from_std(plain).unwrap();
            while ledger.received < sent {
                ledger.enter(&receive(&receiver).await);
            }
        }
        assert_eq!((ledger.received, ledger.holes), (sent, 0));
    });
}

/// Fails when the descriptor, which the wait keeps open to its end, keeps the address as well.
fn an_address_is_free_although_a_dropped_wait_is_in_flight(shape: Shape) {
    shape.run(async {
        let socket = socket();
        let address = address(&socket);
        // The drain enters the kernel for everything of this socket that is in flight.
        socket.drain().unwrap();
        assert!(socket.writable().now_or_never().is_none(), "the wait was only requested");
        drop(socket);
        UdpSocket::bind(address).expect("the address is free");
    });
}

/// Fails when the seal stays on the socket.
fn a_drained_socket_that_is_given_back_receives_again(shape: Shape) {
    shape.run(async {
        let receiver = socket();
        let sender = sender_to(&receiver);
        receiver.drain().unwrap();
        sender.send(b"refused").unwrap();
        let (plain, taken) = receiver.into_std().unwrap();
        assert!(taken.is_empty());
        sender.send(b"again").unwrap();
        let mut memory = [0; 64];
        assert_eq!(plain.recv(&mut memory).unwrap(), 5);
    });
}

/// Attaches a filter that accepts only datagrams of `len` bytes.
fn accept_only(len: u32, socket: &impl AsFd) {
    let instruction = |code: u32, if_true, if_false, operand| {
        SockFilter::new(code as u16, if_true, if_false, operand)
    };
    let header = 8;
    let program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, header + len),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    duplicate(socket).attach_filter(&program).unwrap();
}

/// Fails when the seal replaces the filter for good.
fn a_filter_of_the_program_survives_the_drain_and_the_way_back(shape: Shape) {
    shape.run(async {
        for drained in [false, true] {
            let receiver = socket();
            let sender = sender_to(&receiver);
            accept_only(4, &receiver);
            sender.send(b"wrong").unwrap();
            sender.send(b"good").unwrap();
            if drained {
                receiver.drain().unwrap();
                sender.send(b"late").unwrap();
            }
            let (plain, taken) = receiver.into_std().unwrap();
            sender.send(b"wrong").unwrap();
            sender.send(b"also").unwrap();
            let mut received: Vec<_> = taken.iter().map(|datagram| datagram.to_vec()).collect();
            let mut memory = [0; 64];
            while let Ok(len) = plain.recv(&mut memory) {
                received.push(memory[..len].to_vec());
            }
            assert_eq!(received, [b"good", b"also"], "drained: {drained}");
        }
    });
}

/// Fails when the filter is mistaken for the seal.
fn a_filter_attached_after_the_seal_stays(shape: Shape) {
    shape.run(async {
        let receiver = socket();
        let sender = sender_to(&receiver);
        receiver.drain().unwrap();
        accept_only(4, &receiver);
        let (plain, _) = receiver.into_std().unwrap();
        sender.send(b"wrong").unwrap();
        sender.send(b"good").unwrap();
        let mut memory = [0; 64];
        assert_eq!(plain.recv(&mut memory).unwrap(), 4);
    });
}

fn options_are_those_of_the_kernel(shape: Shape) {
    shape.run(async {
        let options = UdpSocket::options().recv_buffer_size(16_384).send_buffer_size(8_192);
        let socket = options.bind("127.0.0.1:0").unwrap();
        // The kernel doubles the size.
        assert_eq!(socket.recv_buffer_size().unwrap(), 32_768);
        assert_eq!(socket.send_buffer_size().unwrap(), 16_384);
        socket.set_recv_buffer_size(8_192).unwrap();
        socket.set_send_buffer_size(16_384).unwrap();
        assert_eq!(socket.recv_buffer_size().unwrap(), 16_384);
        assert_eq!(socket.send_buffer_size().unwrap(), 32_768);
        for on in [true, false] {
            socket.set_broadcast(on).unwrap();
            assert_eq!(socket.broadcast().unwrap(), on);
            socket.set_multicast_loop_v4(on).unwrap();
            assert_eq!(socket.multicast_loop_v4().unwrap(), on);
        }
        socket.set_ttl(7).unwrap();
        socket.set_multicast_ttl_v4(3).unwrap();
        assert_eq!((socket.ttl().unwrap(), socket.multicast_ttl_v4().unwrap()), (7, 3));
        assert!(socket.take_error().unwrap().is_none());
    });
}

fn a_multicast_group_is_joined_and_left(shape: Shape) {
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 77);
    shape.run(async {
        let receiver = UdpSocket::options().reuse_address(true).bind((GROUP, 0)).unwrap();
        let to = (GROUP, address(&receiver).port());
        let sender = socket2::Socket::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        sender.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        let send = |payload: &[u8]| sender.send_to(payload, &SocketAddr::from(to).into());
        if let Err(error) = receiver.join_multicast_v4(GROUP, Ipv4Addr::LOCALHOST) {
            eprintln!("skipped: no multicast on loopback: {error}");
            return;
        }
        if let Err(error) = send(b"joined") {
            eprintln!("skipped: no sending to a multicast group: {error}");
            return;
        }
        assert_eq!(receive(&receiver).await, b"joined");
        receiver.leave_multicast_v4(GROUP, Ipv4Addr::LOCALHOST).unwrap();
        send(b"left").unwrap();
        receiver.drain().unwrap();
        assert!(receiver.recv().await.unwrap().is_none());
        assert!(receiver.leave_multicast_v4(GROUP, Ipv4Addr::LOCALHOST).is_err());
    });
}

fn sockets_share_a_port_where_all_ask_for_it(shape: Shape) {
    shape.run(async {
        let sharing = UdpSocket::options().reuse_port(true);
        let first = sharing.bind("127.0.0.1:0").unwrap();
        let second = sharing.bind(address(&first)).unwrap();
        let refused = UdpSocket::bind(address(&first)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        for _ in 0..BACKLOG {
            sender_to(&first).send(b"to either").unwrap();
        }
        for socket in [&first, &second] {
            socket.drain().unwrap();
            while socket.recv().await.unwrap().is_some() {}
        }
        let (first, second) = (first.stats().received, second.stats().received);
        assert_eq!(first + second, BACKLOG);
        assert!(first > 0 && second > 0, "{first} and {second}");
    });
}

fn ipv6_works_like_ipv4(shape: Shape) {
    shape.run(async {
        let receiver = match UdpSocket::options().only_v6(true).bind("[::1]:0") {
            Ok(receiver) => receiver,
            Err(error) => return eprintln!("skipped: no IPv6: {error}"),
        };
        let sender = UdpSocket::bind("[::1]:0").unwrap();
        sender.send_to(b"six", address(&receiver)).await.unwrap();
        let datagram = receiver.recv().await.unwrap().unwrap();
        assert_eq!((&datagram[..], datagram.peer()), (&b"six"[..], address(&sender)));
        receiver.connect(address(&sender)).unwrap();
        receiver.send(b"back").await.unwrap();
        sender.drain().unwrap();
        let datagram = sender.recv().await.unwrap().unwrap();
        assert_eq!((&datagram[..], datagram.peer()), (&b"back"[..], address(&receiver)));
    });
}

fn the_counts_balance(shape: Shape) {
    shape.run(async {
        let receiver = socket();
        assert_eq!(receiver.stats(), SocketStats::default());
        let sender = sender_to(&receiver);
        send_numbered(&sender, 0..BACKLOG);
        for _ in 0..10 {
            receive(&receiver).await;
        }
        receiver.drain().unwrap();
        send_numbered(&sender, 0..5);
        assert_eq!((receiver.stats().delivered, receiver.stats().refused), (10, 5));
        while receiver.recv().await.unwrap().is_some() {}
        let stats = receiver.stats();
        assert_eq!((stats.received, stats.delivered, stats.refused), (BACKLOG, BACKLOG, 5));

        let overrun = UdpSocket::options().recv_buffer_size(4_096).bind("127.0.0.1:0").unwrap();
        send_numbered(&sender_to(&overrun), 0..BACKLOG);
        overrun.drain().unwrap();
        let stats = overrun.stats();
        assert!(stats.received > 0 && stats.dropped_by_kernel > 0, "{stats:?}");
        assert_eq!(stats.received + stats.dropped_by_kernel, BACKLOG);
    });
}
