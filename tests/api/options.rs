//! Options of UDP sockets. An option takes effect, or setting it is an error.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide_testkit::{Shape, on_every_shape};

on_every_shape!(
    options_of_ipv4_are_those_of_the_kernel,
    options_of_ipv6_are_those_of_the_kernel,
    a_number_that_does_not_fit_never_wraps,
    a_device_is_bound_by_its_whole_name,
    an_address_that_nobody_has_yet_can_be_bound,
    options_of_a_socket_that_is_taken_over_take_effect_or_are_refused,
    multicast_of_ipv6_leaves_by_the_interface_that_is_set,
    a_group_of_one_source_brings_what_that_source_sends,
    a_group_of_one_source_works_in_ipv6,
);

/// The index of the loopback interface, which is the first of every network namespace.
const LOOPBACK: u32 = 1;

fn options_of_ipv4_are_those_of_the_kernel(shape: Shape) {
    shape.run(async {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_tos_v4(46 << 2).unwrap();
        assert_eq!(socket.tos_v4().unwrap(), 46 << 2);
        socket.set_priority(3).unwrap();
        assert_eq!((socket.priority().unwrap(), socket.mark().unwrap()), (3, 0));
        socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        assert_eq!(socket.multicast_if_v4().unwrap(), Ipv4Addr::LOCALHOST);
        socket.set_multicast_if_v4(&Ipv4Addr::UNSPECIFIED).unwrap();
        assert_eq!(socket.multicast_if_v4().unwrap(), Ipv4Addr::UNSPECIFIED);
        let nobodys = Ipv4Addr::new(192, 0, 2, 1);
        let error = socket.set_multicast_if_v4(&nobodys).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        for on in [false, true] {
            socket.set_multicast_all_v4(on).unwrap();
            assert_eq!(socket.multicast_all_v4().unwrap(), on);
        }
        // Options of IPv6 are refused, not ignored.
        let refusals = [
            socket.set_unicast_hops_v6(1),
            socket.set_tclass_v6(1),
            socket.set_multicast_loop_v6(true),
            socket.set_multicast_hops_v6(1),
            socket.set_multicast_if_v6(LOOPBACK),
            socket.set_multicast_all_v6(true),
        ];
        for (number, refusal) in refusals.into_iter().enumerate() {
            let error = refusal.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT), "{number}: {error}");
        }
    });
}

fn options_of_ipv6_are_those_of_the_kernel(shape: Shape) {
    shape.run(async {
        let socket = UdpSocket::options().only_v6(false).bind("[::]:0").unwrap();
        assert!(!socket.only_v6().unwrap());
        socket.set_unicast_hops_v6(9).unwrap();
        socket.set_multicast_hops_v6(4).unwrap();
        assert_eq!(
            (socket.unicast_hops_v6().unwrap(), socket.multicast_hops_v6().unwrap()),
            (9, 4)
        );
        socket.set_tclass_v6(10 << 2).unwrap();
        assert_eq!(socket.tclass_v6().unwrap(), 10 << 2);
        socket.set_multicast_if_v6(LOOPBACK).unwrap();
        assert_eq!(socket.multicast_if_v6().unwrap(), LOOPBACK);
        for on in [false, true] {
            socket.set_multicast_loop_v6(on).unwrap();
            assert_eq!(socket.multicast_loop_v6().unwrap(), on);
            socket.set_multicast_all_v6(on).unwrap();
            assert_eq!(socket.multicast_all_v6().unwrap(), on);
        }
        // The options of IPv4 apply to its IPv4 datagrams.
        socket.set_ttl(8).unwrap();
        socket.set_tos_v4(20 << 2).unwrap();
        assert_eq!((socket.ttl().unwrap(), socket.tos_v4().unwrap()), (8, 20 << 2));
        assert_eq!((socket.unicast_hops_v6().unwrap(), socket.tclass_v6().unwrap()), (9, 10 << 2));
    });
}

/// Fails when a number is cast to an int. A buffer of 4 GiB would have size 0, and 4 294 967 295
/// hops would be -1, which stands for the default.
fn a_number_that_does_not_fit_never_wraps(shape: Shape) {
    shape.run(async {
        let udp = |bytes| {
            let options = UdpSocket::options().recv_buffer_size(bytes).send_buffer_size(bytes);
            options.bind("127.0.0.1:0").unwrap()
        };
        let sizes = |socket: &UdpSocket| {
            (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap())
        };
        let most = sizes(&udp(1 << 30));
        let plain = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for bytes in [(1 << 31) - 1, 1 << 31, 1 << 32, (1 << 32) + 4096, usize::MAX] {
            assert_eq!(sizes(&udp(bytes)), most, "{bytes}");
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_recv_buffer_size(bytes).unwrap();
            socket.set_send_buffer_size(bytes).unwrap();
            assert_eq!(sizes(&socket), most, "{bytes}");
            let options = UdpSocket::options().recv_buffer_size(bytes).send_buffer_size(bytes);
            let adopted = options.from_std(plain.try_clone().unwrap()).unwrap();
            assert_eq!(sizes(&adopted), most, "{bytes}");
            let (unix, _peer) = UnixDatagram::pair().unwrap();
            unix.set_send_buffer_size(bytes).unwrap();
            unix.set_recv_buffer_size(bytes).unwrap();
            let granted = (unix.recv_buffer_size().unwrap(), unix.send_buffer_size().unwrap());
            assert_eq!(granted, most, "{bytes}");
        }

        let socket = UdpSocket::options().only_v6(false).bind("[::]:0").unwrap();
        for number in [256, 1 << 31, u32::MAX - 1, u32::MAX] {
            let refusals = [
                ("ttl", socket.set_ttl(number)),
                ("unicast_hops_v6", socket.set_unicast_hops_v6(number)),
                ("multicast_ttl_v4", socket.set_multicast_ttl_v4(number)),
                ("multicast_hops_v6", socket.set_multicast_hops_v6(number)),
                ("tos_v4", socket.set_tos_v4(number)),
                ("tclass_v6", socket.set_tclass_v6(number)),
            ];
            for (name, refusal) in refusals {
                let error = refusal.expect_err(name);
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{name} {number}: {error}");
            }
            let group_v4 = Ipv4Addr::new(239, 255, 1, 1);
            let group_v6 = "ff02::77".parse().unwrap();
            let refusals = [
                ("multicast_if_v6", socket.set_multicast_if_v6(number)),
                ("join_multicast_v6", socket.join_multicast_v6(&group_v6, number)),
                ("join_multicast_v4_n", socket.join_multicast_v4_n(group_v4, number)),
                ("join_ssm_v6", socket.join_ssm_v6(&Ipv6Addr::LOCALHOST, &group_v6, number)),
            ];
            for (name, refusal) in refusals {
                let error = refusal.expect_err(name);
                assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name} {number}: {error}");
            }
        }
    });
}

/// Fails when the kernel gets a name that it cuts off, because it then binds to another interface.
fn a_device_is_bound_by_its_whole_name(shape: Shape) {
    shape.run(async {
        let socket = UdpSocket::options().bind_device(b"lo").bind("127.0.0.1:0").unwrap();
        assert_eq!(socket.device().unwrap().as_deref(), Some(&b"lo"[..]));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(socket.device().unwrap(), None);
        let names: [&[u8]; 4] = [b"lo\0", b"lo\0other", b"\0", b"a-name-of-16-byt"];
        for name in names {
            let error = socket.bind_device(Some(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
            let error = UdpSocket::options().bind_device(name).bind("127.0.0.1:0").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        }
        assert_eq!(socket.device().unwrap(), None);
        let error = socket.bind_device(Some(b"nobody")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        socket.bind_device(Some(b"lo")).unwrap();
        assert_eq!(socket.device().unwrap().as_deref(), Some(&b"lo"[..]));
    });
}

fn an_address_that_nobody_has_yet_can_be_bound(shape: Shape) {
    shape.run(async {
        for address in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            let error = UdpSocket::bind(address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
            let socket = UdpSocket::options().freebind(true).bind(address).unwrap();
            let bound = socket.local_addr().unwrap();
            assert_eq!(bound.ip(), address.parse::<SocketAddr>().unwrap().ip());
        }
    });
}

/// Fails when an option is ignored on a socket that something else has bound.
fn options_of_a_socket_that_is_taken_over_take_effect_or_are_refused(shape: Shape) {
    shape.run(async {
        let plain = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let options = UdpSocket::options().recv_buffer_size(16_384).send_buffer_size(8_192);
        let socket = options.bind_device(b"lo").from_std(plain()).unwrap();
        assert_eq!(socket.recv_buffer_size().unwrap(), 32_768);
        assert_eq!(socket.send_buffer_size().unwrap(), 16_384);
        assert_eq!(socket.device().unwrap().as_deref(), Some(&b"lo"[..]));
        for options in [
            UdpSocket::options().reuse_port(true),
            UdpSocket::options().reuse_address(true),
            UdpSocket::options().only_v6(false),
            UdpSocket::options().freebind(true),
        ] {
            let error = options.from_std(plain()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{options:?}");
        }
    });
}

/// Whether plain sockets receive IPv6 multicast on loopback. This needs a route, and the flag of
/// the interface.
fn loopback_has_multicast_v6(group: &Ipv6Addr) -> bool {
    let receiver = std::net::UdpSocket::bind("[::]:0").unwrap();
    receiver.set_nonblocking(true).unwrap();
    let sender = socket2::Socket::from(std::net::UdpSocket::bind("[::1]:0").unwrap());
    let to = SocketAddr::from((*group, receiver.local_addr().unwrap().port()));
    let arrives = receiver
        .join_multicast_v6(group, LOOPBACK)
        .and_then(|()| sender.set_multicast_if_v6(LOOPBACK))
        .and_then(|()| sender.send_to(b"here", &to.into()))
        .and_then(|_| receiver.recv(&mut [0; 4]));
    if let Err(error) = &arrives {
        println!("skipped: no IPv6 multicast on loopback: {error}");
    }
    arrives.is_ok()
}

fn multicast_of_ipv6_leaves_by_the_interface_that_is_set(shape: Shape) {
    let group: Ipv6Addr = "ff02::77".parse().unwrap();
    shape.run(async {
        let receiver = UdpSocket::options().reuse_address(true).bind("[::]:0").unwrap();
        let port = receiver.local_addr().unwrap().port();
        let sender = UdpSocket::bind("[::1]:0").unwrap();
        sender.set_multicast_if_v6(LOOPBACK).unwrap();
        receiver.join_multicast_v6(&group, LOOPBACK).unwrap();
        if loopback_has_multicast_v6(&group) {
            sender.send_to(b"joined", (group, port)).await.unwrap();
            assert_eq!(receiver.recv().await.unwrap().unwrap()[..], *b"joined");
        }
        receiver.leave_multicast_v6(&group, LOOPBACK).unwrap();
        assert!(receiver.leave_multicast_v6(&group, LOOPBACK).is_err());
    });
}

fn a_group_of_one_source_brings_what_that_source_sends(shape: Shape) {
    let group = Ipv4Addr::new(232, 1, 2, 3);
    let (wanted, other) = (Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2));
    shape.run(async {
        let receiver = UdpSocket::options().reuse_address(true).bind((group, 0)).unwrap();
        let to = (group, receiver.local_addr().unwrap().port());
        if let Err(error) = receiver.join_ssm_v4(wanted, group, Ipv4Addr::LOCALHOST) {
            return println!("skipped: no multicast on loopback: {error}");
        }
        for source in [other, wanted, other] {
            let sender = UdpSocket::bind((source, 0)).unwrap();
            sender.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
            if let Err(error) = sender.send_to(&source.octets(), to).await {
                return println!("skipped: no sending to a group: {error}");
            }
        }
        receiver.drain().unwrap();
        let datagram = receiver.recv().await.unwrap().expect("a datagram came");
        assert_eq!(datagram[..], wanted.octets());
        assert!(receiver.recv().await.unwrap().is_none(), "another source was received");
        receiver.leave_ssm_v4(wanted, group, Ipv4Addr::LOCALHOST).unwrap();
        assert!(
            receiver.leave_ssm_v4(wanted, group, Ipv4Addr::LOCALHOST).is_err(),
            "the group was left before"
        );
    });
}

fn a_group_of_one_source_works_in_ipv6(shape: Shape) {
    let group: Ipv6Addr = "ff32::77".parse().unwrap();
    let (wanted, other) = (Ipv6Addr::LOCALHOST, "2001:db8::1".parse().unwrap());
    shape.run(async {
        let has_multicast = loopback_has_multicast_v6(&group);
        let sender = UdpSocket::bind((wanted, 0)).unwrap();
        sender.set_multicast_if_v6(LOOPBACK).unwrap();
        for (source, count) in [(wanted, 1), (other, 0)] {
            let receiver = UdpSocket::bind("[::]:0").unwrap();
            let port = receiver.local_addr().unwrap().port();
            receiver.join_ssm_v6(&source, &group, LOOPBACK).unwrap();
            let digits = |ip: Ipv6Addr| format!("{:032x}", ip.to_bits());
            if let Ok(joined) = std::fs::read_to_string("/proc/thread-self/net/mcfilter6") {
                let line = format!("{} {}", digits(group), digits(source));
                assert!(joined.contains(&line), "{line} is not in:\n{joined}");
            }
            if has_multicast {
                sender.send_to(b"to a group", (group, port)).await.unwrap();
                receiver.drain().unwrap();
                while receiver.recv().await.unwrap().is_some() {}
                assert_eq!(receiver.stats().received, count, "from {source}");
            }
            receiver.leave_ssm_v6(&source, &group, LOOPBACK).unwrap();
            assert!(
                receiver.leave_ssm_v6(&source, &group, LOOPBACK).is_err(),
                "the group was left before"
            );
        }
    });
}
