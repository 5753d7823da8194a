//! Adopted descriptors. A descriptor of the right kind is taken, any other is refused.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide::{Drain, DrainOutcome};
use ebbtide_testkit::{Shape, on_every_shape};
use socket2::{Domain, Protocol, Socket, Type};

on_every_shape!(
    what_is_not_a_unix_datagram_socket_is_refused,
    what_is_not_a_udp_socket_is_refused,
    sockets_of_the_right_kind_are_taken,
);

fn socket(domain: Domain, kind: Type, protocol: Option<Protocol>) -> OwnedFd {
    Socket::new(domain, kind, protocol).unwrap().into()
}

/// One end of a pair whose other end is closed. Every read returns 0 bytes.
fn left_alone(kind: Type) -> OwnedFd {
    Socket::pair(Domain::UNIX, kind, None).unwrap().0.into()
}

/// Descriptors of sockets that are neither UDP nor Unix datagram sockets.
fn others() -> Vec<(&'static str, OwnedFd)> {
    vec![
        ("a stream", left_alone(Type::STREAM)),
        ("a seqpacket socket", left_alone(Type::SEQPACKET)),
        ("TCP", socket(Domain::IPV4, Type::STREAM, None)),
        ("TCP on IPv6", socket(Domain::IPV6, Type::STREAM, None)),
    ]
}

/// Fails unless each of `descriptors` is refused because of its kind, and a file because it is not
/// a socket. A socket that is taken nevertheless is drained, which does not end if it is a stream.
fn are_refused(
    shape: Shape,
    descriptors: Vec<(&'static str, OwnedFd)>,
    adopt: impl Fn(OwnedFd) -> io::Result<()>,
) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        for (name, descriptor) in descriptors {
            let number = descriptor.as_raw_fd();
            let error = adopt(descriptor).expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}, {number}: {error}");
            assert!(error.to_string().contains("got a socket of"), "{name}: {error}");
        }
        let file = File::open("/dev/null").unwrap();
        let (pipe, _other_end) = io::pipe().unwrap();
        for descriptor in [OwnedFd::from(file), OwnedFd::from(pipe)] {
            let error = adopt(descriptor).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK), "{error}");
        }
    });
    assert_eq!(runtime.shutdown(Drain::default()).outcome, DrainOutcome::Complete);
}

/// Fails when the type and the family of a descriptor are not checked.
fn what_is_not_a_unix_datagram_socket_is_refused(shape: Shape) {
    let mut descriptors = others();
    descriptors.push(("UDP", socket(Domain::IPV4, Type::DGRAM, None)));
    descriptors.push(("UDP on IPv6", socket(Domain::IPV6, Type::DGRAM, None)));
    are_refused(shape, descriptors, |descriptor| {
        UnixDatagram::from_std(descriptor.into()).map(drop)
    });
}

/// Fails when the type, the family and the protocol of a descriptor are not checked.
fn what_is_not_a_udp_socket_is_refused(shape: Shape) {
    let all = || {
        let mut descriptors = others();
        descriptors.push(("a Unix datagram socket", left_alone(Type::DGRAM)));
        // Some kernels do not have these, and some users may not open them.
        let by_protocol = [
            ("UDP-Lite", Domain::IPV4, Type::DGRAM, Protocol::UDPLITE),
            ("UDP-Lite on IPv6", Domain::IPV6, Type::DGRAM, Protocol::UDPLITE),
            ("ICMP", Domain::IPV4, Type::DGRAM, Protocol::ICMPV4),
            ("ICMP on IPv6", Domain::IPV6, Type::DGRAM, Protocol::ICMPV6),
            ("raw UDP", Domain::IPV4, Type::RAW, Protocol::UDP),
        ];
        for (name, domain, kind, protocol) in by_protocol {
            match Socket::new(domain, kind, Some(protocol)) {
                Ok(socket) => descriptors.push((name, socket.into())),
                Err(error) => println!("skipped: {name}: {error}"),
            }
        }
        descriptors
    };
    are_refused(shape, all(), |descriptor| UdpSocket::from_std(descriptor.into()).map(drop));
    let options = UdpSocket::options().gro(false).recv_ecn(true);
    are_refused(shape, all(), |descriptor| options.from_std(descriptor.into()).map(drop));
}

fn sockets_of_the_right_kind_are_taken(shape: Shape) {
    shape.runtime().block_on(async {
        for domain in [Domain::IPV4, Domain::IPV6] {
            let descriptor = socket(domain, Type::DGRAM, None);
            UdpSocket::from_std(descriptor.into()).unwrap();
            let descriptor = socket(domain, Type::DGRAM, Some(Protocol::UDP));
            UdpSocket::options().gro(true).from_std(descriptor.into()).unwrap();
        }
        UnixDatagram::from_std(socket(Domain::UNIX, Type::DGRAM, None).into()).unwrap();
        UnixDatagram::from_std(left_alone(Type::DGRAM).into()).unwrap();
    });
}
