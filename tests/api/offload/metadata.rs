//! The metadata of a send is sent with it: for each family of the socket and of the address, mapped
//! or not, connected or not, alone, in a batch or segmented by the kernel. And the receiver reports
//! it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ebbtide::net::{EcnCodepoint, Transmit, UdpSocket};
use ebbtide::task::yield_now;
use ebbtide_testkit::socket::receive_control_byte;
use ebbtide_testkit::{Shape, on_every_shape, run};
use socket2::Socket;

on_every_shape!(
    what_is_set_on_a_send_leaves_with_it,
    a_source_of_the_other_protocol_is_refused,
    what_comes_is_reported_for_each_protocol,
    a_congestion_notification_keeps_the_rest_of_the_traffic_class,
);

const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// How a sender is bound.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Family {
    V4,
    V6,
    Dual,
}

impl Family {
    const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Dual];

    fn bind(self) -> UdpSocket {
        let options = UdpSocket::options().only_v6(self == Self::V6);
        match self {
            Self::V4 => options.bind("0.0.0.0:0"),
            Self::V6 | Self::Dual => options.bind("[::]:0"),
        }
        .unwrap()
    }
}

/// A receiver, and the address by which each kind of sender reaches it.
struct Receiver {
    socket: UdpSocket,
    names: Vec<(Vec<Family>, SocketAddr)>,
    source: IpAddr,
}

fn receivers() -> [Receiver; 2] {
    let options = UdpSocket::options().recv_ecn(true).recv_dst_ip(true);
    let v4 = options.bind("127.0.0.1:0").unwrap();
    let v6 = options.clone().only_v6(true).bind("[::1]:0").unwrap();
    let (at_v4, at_v6) = (v4.local_addr().unwrap(), v6.local_addr().unwrap());
    let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), at_v4.port()));
    let names_v4 = vec![(vec![Family::V4, Family::Dual], at_v4), (vec![Family::Dual], mapped)];
    let names_v6 = vec![(vec![Family::V6, Family::Dual], at_v6)];
    [
        Receiver { socket: v4, names: names_v4, source: SOURCE_V4.into() },
        Receiver { socket: v6, names: names_v6, source: Ipv6Addr::LOCALHOST.into() },
    ]
}

/// All ways to specify the destination of a datagram.
fn transmits_to(to: SocketAddr, sender: Family) -> Vec<(UdpSocket, Transmit<'static>)> {
    let connected = sender.bind();
    connected.connect(to).unwrap();
    vec![
        (sender.bind(), Transmit::to(b"0123456789", to)),
        (connected, Transmit::new(b"0123456789")),
    ]
}

/// Fails when a dual-stack socket marks what it sends to a mapped address as IPv6, which IPv4
/// ignores, or when a connected IPv6 socket marks it as IPv4.
fn what_is_set_on_a_send_leaves_with_it(shape: Shape) {
    run(&shape.runtime(), async {
        for receiver in receivers() {
            for (families, to) in &receiver.names {
                for &family in families {
                    for (sender, transmit) in transmits_to(*to, family) {
                        let case = format!("{family:?} to {to}, {transmit:?}");
                        leaves_with(&sender, transmit, &receiver, &case).await;
                    }
                }
            }
        }
    });
}

async fn leaves_with(sender: &UdpSocket, transmit: Transmit<'_>, receiver: &Receiver, case: &str) {
    for ecn in [EcnCodepoint::Ect0, EcnCodepoint::Ect1, EcnCodepoint::Ce] {
        let marked = transmit.ecn(ecn);
        let from = marked.src_ip(receiver.source);
        let from_mapped = match receiver.source {
            IpAddr::V4(ip) => marked.src_ip(ip.to_ipv6_mapped().into()),
            IpAddr::V6(_) => from,
        };
        let unspecified = marked.src_ip(match ecn {
            EcnCodepoint::Ect0 => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        });
        // Some are alike and leave as one message if the kernel segments, others are not.
        let batch = [from, from, from_mapped, marked, unspecified, from.segment_size(4)];
        assert_eq!(sender.send_batch(&batch).await.unwrap(), batch.len(), "{case}");
        sender.transmit(from.segment_size(5)).await.unwrap();
        for number in 0..10 {
            let datagram = receiver.socket.recv().await.unwrap().unwrap();
            assert_eq!(datagram.ecn(), Some(ecn), "{number}, {case}");
            if !(3..5).contains(&number) {
                assert_eq!(datagram.peer().ip(), receiver.source, "{number}, {case}");
            }
        }
    }
    sender.transmit(transmit).await.unwrap();
    let datagram = receiver.socket.recv().await.unwrap().unwrap();
    assert_eq!(datagram.ecn(), None, "{case}");
}

/// Fails when the datagram is sent nevertheless, from an address that the kernel chose.
fn a_source_of_the_other_protocol_is_refused(shape: Shape) {
    run(&shape.runtime(), async {
        for receiver in receivers() {
            let wrong: IpAddr = match receiver.source {
                IpAddr::V4(_) => Ipv6Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv4Addr::LOCALHOST.into(),
            };
            for (families, to) in &receiver.names {
                for &family in families {
                    for (sender, transmit) in transmits_to(*to, family) {
                        let case = format!("{family:?} to {to}, {transmit:?}");
                        for transmit in [transmit, transmit.segment_size(3)] {
                            let error =
                                sender.transmit(transmit.src_ip(wrong)).await.expect_err(&case);
                            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{case}");
                        }
                        sender.transmit(transmit.src_ip(receiver.source)).await.unwrap();
                        receiver.socket.recv().await.unwrap().unwrap();
                    }
                }
            }
            let nothing_else = receiver.socket.try_recv().unwrap_err();
            assert_eq!(nothing_else.kind(), io::ErrorKind::WouldBlock);
        }
    });
}

/// Fails when a dual-stack socket requests only the metadata of IPv6 datagrams, or when a train
/// reports less than its datagrams.
fn what_comes_is_reported_for_each_protocol(shape: Shape) {
    run(&shape.runtime(), async {
        for connected in [false, true] {
            for from in ["127.0.0.1:0", "[::1]:0"] {
                let options = UdpSocket::options().recv_ecn(true).recv_dst_ip(true);
                let options = options.recv_timestamp(true).recv_drop_count(true).only_v6(false);
                let receiver = options.bind("[::]:0").unwrap();
                let sender = UdpSocket::bind(from).unwrap();
                let ip = sender.local_addr().unwrap().ip();
                sender.connect((ip, receiver.local_addr().unwrap().port())).unwrap();
                if connected {
                    receiver.connect(seen_by_v6(sender.local_addr().unwrap())).unwrap();
                }
                let marked = Transmit::new(b"abcdef").ecn(EcnCodepoint::Ect1);
                sender.transmit(marked).await.unwrap();
                let single = receiver.recv().await.unwrap().unwrap();
                assert_eq!((single.ecn(), single.dst_ip()), (Some(EcnCodepoint::Ect1), Some(ip)));
                assert!(single.interface_index().is_some() && single.timestamp().is_some());
                sender.transmit(marked.segment_size(2)).await.unwrap();
                let train = receiver.recv_train().await.unwrap().unwrap();
                assert_eq!((train.ecn(), train.dst_ip()), (Some(EcnCodepoint::Ect1), Some(ip)));
                assert_eq!(train.interface_index(), single.interface_index());
                assert!(train.timestamp() >= single.timestamp());
                assert_eq!(train.drop_count(), single.drop_count());
                // The last one is read by the drain, not by the driver.
                sender.try_send_batch(&[marked]).unwrap();
                receiver.drain().unwrap();
                let last = receiver.recv().await.unwrap().unwrap();
                assert_eq!((last.ecn(), last.dst_ip()), (Some(EcnCodepoint::Ect1), Some(ip)));
                assert!(last.timestamp() >= single.timestamp());
                // And this one is returned by `into_std`.
                let receiver = options.clone().bind("[::]:0").unwrap();
                sender.connect((ip, receiver.local_addr().unwrap().port())).unwrap();
                sender.try_send_batch(&[marked]).unwrap();
                while receiver.stats().received == 0 {
                    yield_now().await;
                }
                let (_plain, taken) = receiver.into_std().unwrap();
                assert_eq!(taken.len(), 1);
                assert_eq!((taken[0].ecn(), taken[0].dst_ip()), (last.ecn(), last.dst_ip()));
            }
        }
    });
}

fn seen_by_v6(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), address.port()).into(),
        IpAddr::V6(_) => address,
    }
}

/// Fails when the notification replaces the whole class, which is what the kernel does.
fn a_congestion_notification_keeps_the_rest_of_the_traffic_class(shape: Shape) {
    run(&shape.runtime(), async {
        let v4 = Socket::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        v4.set_recv_tos_v4(true).unwrap();
        let v6 = Socket::from(std::net::UdpSocket::bind("[::1]:0").unwrap());
        v6.set_recv_tclass_v6(true).unwrap();
        let [at_v4, at_v6] =
            [&v4, &v6].map(|socket| socket.local_addr().unwrap().as_socket().unwrap());
        let ect0 = EcnCodepoint::Ect0;
        let expect_classes = async |sender: &UdpSocket, at_v4: Option<SocketAddr>, class: u8| {
            let sends = at_v4.map(|to| (&v4, to)).into_iter();
            let sends = sends.chain(sends_by_v6(sender).then_some((&v6, at_v6)));
            for (receiver, to) in sends {
                sender.transmit(Transmit::to(b"", to)).await.unwrap();
                sender.transmit(Transmit::to(b"", to).ecn(ect0)).await.unwrap();
                assert_eq!(
                    receive_control_byte(receiver).unwrap(),
                    class,
                    "to {to}, the socket's class"
                );
                assert_eq!(
                    receive_control_byte(receiver).unwrap(),
                    class & !0b11 | 0b10,
                    "to {to}, with ECN"
                );
            }
        };
        for family in Family::ALL {
            let sender = family.bind();
            let at_v4 = match family {
                Family::V4 => Some(at_v4),
                Family::V6 => None,
                Family::Dual => Some(seen_by_v6(at_v4)),
            };
            expect_classes(&sender, at_v4, 0).await;
            for class in [46 << 2, (10 << 2) | 0b01] {
                if family != Family::V6 {
                    sender.set_tos_v4(class).unwrap();
                }
                if family != Family::V4 {
                    sender.set_tclass_v6(class).unwrap();
                }
                let byte = u8::try_from(class).unwrap();
                expect_classes(&sender, at_v4, byte).await;
            }
            // The class of an adopted socket counts as well.
            let (plain, _) = sender.into_std().unwrap();
            let sender = UdpSocket::from_std(plain).unwrap();
            expect_classes(&sender, at_v4, (10 << 2) | 0b01).await;
        }
    });
}

/// Whether the socket sends IPv6 datagrams.
fn sends_by_v6(sender: &UdpSocket) -> bool {
    sender.local_addr().unwrap().is_ipv6()
}
