//! Each error comes once, in its place between the datagrams, and receiving goes on. A datagram
//! that does not fit into a buffer is marked, with its true length.

use std::io;
use std::os::unix::net::UnixDatagram as PlainUnix;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::{Address, DatagramSocket, Transmit, UdpSocket, UnixAddr, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::timeout;
use ebbtide_testkit::descriptor::Number;
use ebbtide_testkit::{Shape, bind_full_path, on_every_shape, path_of, run, turns, unique_name};
use socket2::Socket;

on_every_shape!(
    truncation_is_reported_with_the_true_length,
    the_drain_reports_truncation_with_the_true_length,
    a_refused_send_surfaces_once_and_receiving_goes_on,
    a_refused_send_is_not_the_end_of_a_drain,
    a_socket_that_only_sends_learns_that_nobody_is_there,
    an_error_waits_for_the_receiver_that_there_is,
    a_socket_with_the_number_of_one_that_failed_is_heard,
    a_datagram_that_is_too_large_is_refused_and_nothing_else_happens,
    sending_to_nobody_fails_and_the_socket_goes_on,
    an_unnamed_unconnected_socket_waits_until_it_is_drained,
    the_longest_addresses_arrive_whole,
    a_path_without_a_final_nul_harms_nothing,
);

const BUFFER_SIZE: usize = 100;
const LENGTHS: [usize; 5] = [99, 100, 101, 5_000, 3];

fn send_lengths(sender: &Socket) {
    for len in LENGTHS {
        sender.send(&vec![len as u8; len]).unwrap();
    }
}

async fn expect_lengths<A: Address>(socket: &DatagramSocket<A>) {
    for len in LENGTHS {
        let datagram = socket.recv().await.unwrap().expect("not drained");
        assert_eq!(datagram.original_len(), len);
        assert_eq!(datagram.len(), len.min(BUFFER_SIZE));
        assert!(datagram.iter().all(|&byte| byte == len as u8));
        assert_eq!(datagram.is_truncated(), len > BUFFER_SIZE, "{len}");
    }
    assert_eq!(socket.stats().truncated, 2);
}

fn unix() -> (UnixDatagram, Socket) {
    let (receiver, sender) = PlainUnix::pair().unwrap();
    (UnixDatagram::from_std(receiver).unwrap(), sender.into())
}

fn udp() -> (UdpSocket, Socket) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    (receiver, sender.into())
}

/// Fails when the receive is armed without `MSG_TRUNC`.
fn truncation_is_reported_with_the_true_length(shape: Shape) {
    let runtime = shape.builder().buffer_size(BUFFER_SIZE).build().unwrap();
    run(&runtime, async {
        let (socket, sender) = unix();
        send_lengths(&sender);
        expect_lengths(&socket).await;
        let (socket, sender) = udp();
        send_lengths(&sender);
        expect_lengths(&socket).await;
    });
}

/// Fails when the drain reads without `MSG_TRUNC`. With a single buffer, it has to read directly.
fn the_drain_reports_truncation_with_the_true_length(shape: Shape) {
    let runtime = shape.builder().buffers(1).buffer_size(BUFFER_SIZE).build().unwrap();
    run(&runtime, async {
        let (socket, sender) = unix();
        send_lengths(&sender);
        socket.drain().unwrap();
        expect_lengths(&socket).await;
        let (socket, sender) = udp();
        send_lengths(&sender);
        socket.drain().unwrap();
        expect_lengths(&socket).await;
    });
}

/// A socket that is connected to a plain one, which can be closed and opened again.
struct Peers {
    socket: Rc<UdpSocket>,
    peer: Option<std::net::UdpSocket>,
}

impl Peers {
    fn new() -> Self {
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(peer.local_addr().unwrap()).unwrap();
        Self { socket: Rc::new(socket), peer: Some(peer) }
    }

    fn peer_sends(&self, payload: &[u8]) {
        let peer = self.peer.as_ref().expect("the peer is open");
        peer.send_to(payload, self.socket.local_addr().unwrap()).unwrap();
    }

    /// Closes the peer, runs `then`, and opens it again. Datagrams of `then` are answered by ICMP
    /// "port unreachable".
    fn while_peer_is_gone(&mut self, then: impl FnOnce(&UdpSocket)) {
        let address = self.peer.take().expect("the peer is open").local_addr().unwrap();
        then(&self.socket);
        self.peer = Some(std::net::UdpSocket::bind(address).unwrap());
    }
}

/// Sends in one of several ways, or takes the error. Returns the error, if there was one.
async fn sent_somehow(socket: &UdpSocket, how: usize) -> Option<io::Error> {
    match how {
        0 => socket.try_send(b"?").err(),
        1 => socket.send(b"?").await.err(),
        2 => socket.send_batch(&[Transmit::new(b"?"), Transmit::new(b"!")]).await.err(),
        3 => {
            socket.set_coalescing(true);
            let error = socket.send(b"?").await.err();
            socket.set_coalescing(false);
            error
        }
        _ => socket.take_error().unwrap(),
    }
}

/// Nobody has ever received from the socket, or the receiver has ended. Fails when the error is
/// kept for a receiver.
fn a_socket_that_only_sends_learns_that_nobody_is_there(shape: Shape) {
    shape.run(async {
        for had_receiver in [false, true] {
            let mut peers = Peers::new();
            if had_receiver {
                let socket = Rc::clone(&peers.socket);
                let receiver =
                    ebbtide::spawn(async move { socket.recv().await.unwrap().is_some() });
                yield_now().await;
                peers.peer_sends(b"for the receiver");
                assert!(receiver.await.unwrap());
            }
            for how in 0..5 {
                peers.while_peer_is_gone(|socket| assert_eq!(socket.try_send(b"?").unwrap(), 1));
                for _turn in 0..10 {
                    yield_now().await;
                }
                let error = sent_somehow(&peers.socket, how).await.expect("the port is closed");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{how}");
                // Reported once.
                assert!(sent_somehow(&peers.socket, how).await.is_none(), "{how}");
            }
            assert_eq!(peers.socket.stats().errors, 5);
        }
    });
}

/// The receiver is busy. Fails when a sender takes the error, because it then does not come in its
/// place.
fn an_error_waits_for_the_receiver_that_there_is(shape: Shape) {
    shape.run(async {
        let mut peers = Peers::new();
        assert!(peers.socket.try_recv().is_err(), "nothing is queued, and this task receives");
        peers.while_peer_is_gone(|socket| assert_eq!(socket.try_send(b"?").unwrap(), 1));
        for _turn in 0..10 {
            yield_now().await;
        }
        assert_eq!(peers.socket.try_send(b"?").unwrap(), 1);
        assert!(peers.socket.take_error().unwrap().is_none());
        let error = peers.socket.recv().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    });
}

/// Fails when a receive that an error has ended is not armed again.
fn a_refused_send_surfaces_once_and_receiving_goes_on(shape: Shape) {
    shape.run(async {
        let mut peers = Peers::new();
        for round in 0..10u8 {
            peers.peer_sends(&[round, 1]);
            assert_eq!(peers.socket.recv().await.unwrap().unwrap()[..], [round, 1]);
            peers.while_peer_is_gone(|socket| assert_eq!(socket.try_send(b"?").unwrap(), 1));
            let error = peers.socket.recv().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            peers.peer_sends(&[round, 2]);
            assert_eq!(peers.socket.recv().await.unwrap().unwrap()[..], [round, 2]);
        }
        assert_eq!(peers.socket.stats().errors, 10);
    });
}

/// Fails when the drain stops reading at an error.
fn a_refused_send_is_not_the_end_of_a_drain(shape: Shape) {
    shape.run(async {
        for turns in 0..4 {
            let mut peers = Peers::new();
            for number in 0..10 {
                peers.peer_sends(&[number]);
            }
            for _ in 0..turns {
                yield_now().await;
            }
            peers.while_peer_is_gone(|socket| assert_eq!(socket.try_send(b"?").unwrap(), 1));
            for number in 10..20 {
                peers.peer_sends(&[number]);
            }
            peers.socket.drain().unwrap();
            let mut errors = 0;
            let mut numbers = Vec::new();
            loop {
                match peers.socket.recv().await {
                    Ok(Some(datagram)) => numbers.extend_from_slice(&datagram),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
                        errors += 1;
                    }
                }
            }
            assert_eq!(numbers, (0..20).collect::<Vec<u8>>());
            assert_eq!(errors, 1, "after {turns} turns");
        }
    });
}

/// Fails when epoll is not told about the close of a socket whose receive had ended before.
fn a_socket_with_the_number_of_one_that_failed_is_heard(shape: Shape) {
    let number = Number::reserve();
    let connected_to = |peer: &std::net::UdpSocket| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(peer.local_addr().unwrap()).unwrap();
        peer.connect(socket.local_addr().unwrap()).unwrap();
        UdpSocket::from_std(number.duplicate(&socket).into()).unwrap()
    };
    shape.run(async {
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let failed = connected_to(&peer);
        drop(peer);
        turns(10).await;
        failed.try_send(b"?").unwrap();
        turns(10).await;
        drop(failed);
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = connected_to(&peer);
        turns(10).await; // By then the driver has found it empty.
        peer.send(b"heard").unwrap();
        for _ in 0..100 {
            turns(10).await;
        }
        assert_eq!(socket.stats().received, 1, "the socket receives");
        assert_eq!(socket.recv().await.unwrap().unwrap()[..], *b"heard");
    });
}

fn a_datagram_that_is_too_large_is_refused_and_nothing_else_happens(shape: Shape) {
    shape.run(async {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let error = sender.send(&[0; 65_508]).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        sender.send(&[1; 65_507]).await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap()[..], [1; 65_507]);
        assert_eq!(sender.stats(), ebbtide::net::SocketStats::default());

        let (left, right) = UnixDatagram::pair().unwrap();
        left.set_send_buffer_size(8_192).unwrap();
        let error = left.send(&[0; 100_000]).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        left.send(&[1; 1_000]).await.unwrap();
        assert_eq!(right.recv().await.unwrap().unwrap()[..], [1; 1_000]);
    });
}

fn sending_to_nobody_fails_and_the_socket_goes_on(shape: Shape) {
    shape.run(async {
        let name = unique_name("socket");
        let socket = UnixDatagram::bind_addr(&name).unwrap();
        let missing = socket.send_to(b"?", "/nonexistent/ebbtide").await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let nobody = socket.send_to_addr(b"?", &unique_name("nobody")).await.unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::ConnectionRefused);
        let unconnected = socket.send(b"?").await.unwrap_err();
        assert_eq!(unconnected.kind(), io::ErrorKind::NotConnected);

        let peer = PlainUnix::bind_addr(&unique_name("peer")).unwrap();
        socket.connect_addr(&peer.local_addr().unwrap()).unwrap();
        drop(peer);
        let gone = socket.send(b"?").await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionRefused);

        PlainUnix::unbound().unwrap().send_to_addr(b"still here", &name).unwrap();
        assert_eq!(socket.recv().await.unwrap().unwrap()[..], *b"still here");

        let unconnected = UdpSocket::bind("127.0.0.1:0").unwrap().try_send(b"?").unwrap_err();
        assert_eq!(unconnected.raw_os_error(), Some(libc::EDESTADDRREQ));
    });
}

fn an_unnamed_unconnected_socket_waits_until_it_is_drained(shape: Shape) {
    shape.run(async {
        let socket = UnixDatagram::unbound().unwrap();
        assert!(timeout(Duration::from_millis(5), socket.recv()).await.is_err());
        assert_eq!(socket.try_recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        socket.drain().unwrap();
        assert!(socket.recv().await.unwrap().is_none());
    });
}

/// Fails when addresses are cut because the reservation is too small.
fn the_longest_addresses_arrive_whole(shape: Shape) {
    shape.run(async {
        let name = unique_name("receiver");
        let socket = UnixDatagram::bind_addr(&name).unwrap();
        let path = path_of(107);
        PlainUnix::bind(&path).unwrap().send_to_addr(b"1", &name).unwrap();
        std::fs::remove_file(&path).unwrap();
        let datagram = socket.recv().await.unwrap().unwrap();
        assert_eq!(datagram.peer().as_pathname(), Some(&*path));

        use std::os::linux::net::SocketAddrExt;
        let abstract_name = path_of(107).into_os_string().into_encoded_bytes();
        let sender = PlainUnix::bind_addr(&UnixAddr::from_abstract_name(&abstract_name).unwrap());
        sender.unwrap().send_to_addr(b"2", &name).unwrap();
        let datagram = socket.recv().await.unwrap().unwrap();
        assert_eq!(datagram.peer().as_abstract_name(), Some(&*abstract_name));
    });
}

/// Fails when the reported length of an address is not clamped, because an empty datagram that the
/// drain read ends where its address does.
fn a_path_without_a_final_nul_harms_nothing(shape: Shape) {
    shape.run(async {
        let name = unique_name("receiver");
        let socket = UnixDatagram::bind_addr(&name).unwrap();
        let (sender, path) = (PlainUnix::unbound().unwrap(), path_of(108));
        bind_full_path(&sender, &path).unwrap();
        let send_all = || {
            for payload in [b"" as &[u8], b"one", b""] {
                sender.send_to_addr(payload, &name).unwrap();
            }
        };
        let expect_all = async || {
            for payload in [b"" as &[u8], b"one", b""] {
                let datagram = socket.recv().await.unwrap().unwrap();
                assert_eq!(datagram[..], *payload);
                // std cannot represent such a path. No address is better than a wrong one.
                assert!(datagram.peer().is_unnamed());
            }
        };
        send_all();
        expect_all().await;
        send_all();
        socket.drain().unwrap();
        expect_all().await;
        std::fs::remove_file(&path).unwrap();
    });
}
