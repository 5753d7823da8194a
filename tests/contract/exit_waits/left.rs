//! Sockets that others hold as well.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;

use ebbtide::net::{Exit, UdpSocket, UnixAddr, UnixDatagram};
use ebbtide::{Drain, DrainOutcome, Runtime, drain, spawn};
use ebbtide_testkit::descriptor::duplicate;
use ebbtide_testkit::socket::left_in_queue;
use ebbtide_testkit::{Shape, Transport, on_every_shape, patient, unique_name};
use socket2::Socket;

use crate::queued::{send, socket_with};

on_every_shape!(
    a_socket_that_is_left_keeps_its_queue_and_its_senders,
    what_was_taken_from_a_socket_that_is_left_is_delivered,
    nothing_is_taken_from_a_socket_that_is_left_before_somebody_asks,
    what_was_taken_from_a_socket_that_is_left_and_nobody_wants_is_an_error,
    a_sealed_udp_socket_hears_again_when_its_runtime_has_ended,
    a_socket_that_is_left_can_be_dropped_with_a_queue,
    drops_from_before_the_adoption_are_not_counted,
    exit_cannot_be_set_after_the_seal,
);

/// What another holder of a socket finds after a runtime that left it. Fails when the socket is
/// sealed, because UDP datagrams would then be lost, and Unix senders would get an error.
fn a_socket_that_is_left_keeps_its_queue_and_its_senders(shape: Shape) {
    fn check<T: Transport>(shape: Shape) {
        let runtime = shape.runtime();
        let (sender, other_holder) = T::pair();
        let shared = Socket::from(other_holder.as_fd().try_clone_to_owned().unwrap());
        runtime.block_on(async {
            let socket = T::open(shared);
            socket.set_exit(Exit::Leave).unwrap();
            spawn(async move { while socket.recv().await.unwrap().is_some() {} });
        });
        sender.send(b"for this program, or the next").unwrap();
        let report = runtime.shutdown(patient());
        sender.send(b"for the next program").expect("the socket is not sealed");
        assert_eq!((report.outcome, report.left), (DrainOutcome::Complete, 1), "{report}");
        let delivered = report.stats.delivered as usize;
        assert_eq!(delivered + left_in_queue(&other_holder), 2, "{}: {report}", shape.name);
        assert_eq!((report.stats.refused, report.stats.abandoned), (0, 0), "{report}");
    }
    check::<SocketAddr>(shape);
    check::<UnixAddr>(shape);
}

/// Fails when datagrams that were taken from the kernel's queue are discarded with the receive.
fn what_was_taken_from_a_socket_that_is_left_is_delivered(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let socket = UdpSocket::options().exit(Exit::Leave).bind("127.0.0.1:0").unwrap();
        assert_eq!(socket.exit(), Exit::Leave);
        assert!(!socket.gro(), "other holders do not expect trains");
        assert!(socket.try_recv().is_err(), "the call arms the receive, and nothing is queued");
        send(3, socket.local_addr().unwrap());
        while socket.stats().received < 3 {
            ebbtide::task::yield_now().await;
        }
        let socket = Rc::new(socket);
        let receiver = Rc::clone(&socket);
        let receiver = spawn(async move {
            let mut count = 0;
            while receiver.recv().await.unwrap().is_some() {
                count += 1;
            }
            count
        });
        let report = drain().await;
        assert_eq!((report.outcome, report.left), (DrainOutcome::Complete, 1), "{report}");
        assert_eq!(receiver.await.unwrap(), 3);
        send(2, socket.local_addr().unwrap());
        assert!(socket.recv().await.unwrap().is_none(), "the socket was left");
        assert_eq!(left_in_queue(&duplicate(&*socket)), 2);
    });
    runtime.shutdown(Drain::default());
}

/// Fails when a receive takes datagrams for nobody, which the next holder would have received.
fn nothing_is_taken_from_a_socket_that_is_left_before_somebody_asks(shape: Shape) {
    let supervisor = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    send(3, supervisor.local_addr().unwrap());
    let runtime = shape.runtime();
    let kept = runtime.block_on(async {
        let given = supervisor.try_clone().unwrap();
        let socket = UdpSocket::options().exit(Exit::Leave).from_std(given).unwrap();
        for _ in 0..5 {
            ebbtide::task::yield_now().await;
        }
        socket
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.left), (DrainOutcome::Complete, 1), "{report}");
    drop(kept);
    assert_eq!(left_in_queue(&duplicate(&supervisor)), 3, "{report}");
}

/// Fails when such a datagram is reported as unclaimed, because another holder would have received
/// it.
fn what_was_taken_from_a_socket_that_is_left_and_nobody_wants_is_an_error(shape: Shape) {
    let runtime = shape.runtime();
    let kept = runtime.block_on(async {
        let socket = socket_with(3);
        while socket.stats().received < 3 {
            ebbtide::task::yield_now().await;
        }
        socket.set_exit(Exit::Leave).unwrap();
        socket
    });
    let report = runtime.shutdown(patient());
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::ReceiversGone, 3), "{report}");
    drop(kept);
}

/// Fails when the filter stays attached. It belongs to the socket, not to the descriptor.
fn a_sealed_udp_socket_hears_again_when_its_runtime_has_ended(shape: Shape) {
    for ends in ["with the runtime", "before it"] {
        let supervisor = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let given = supervisor.try_clone().unwrap();
        let runtime = shape.runtime();
        let kept = runtime.block_on(async {
            let socket = UdpSocket::from_std(given).unwrap();
            drain().await;
            match ends {
                "before it" => None,
                _ => Some(socket),
            }
        });
        runtime.shutdown(Drain::default());
        send(1, supervisor.local_addr().unwrap());
        supervisor.set_nonblocking(true).unwrap();
        supervisor.recv(&mut [0; 8]).unwrap_or_else(|error| panic!("{ends}: {error}"));
        drop(kept);
    }
}

fn a_socket_that_is_left_can_be_dropped_with_a_queue(shape: Shape) {
    let runtime = shape.runtime();
    let name = unique_name("left");
    let supervisor = runtime.block_on(async {
        let socket = UnixDatagram::bind_addr(&name).unwrap();
        socket.set_exit(Exit::Leave).unwrap();
        let supervisor = duplicate(&socket);
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to_addr(b"queued", &name).await.unwrap();
        drop(socket);
        supervisor
    });
    let report = runtime.shutdown(Drain::default());
    assert_eq!(report.stats.abandoned, 0, "others hold the socket: {report}");
    assert_eq!(report.stats.discarded as usize + left_in_queue(&supervisor), 1, "{report}");
}

/// Fails when the kernel's count, which stays with the socket, counts as the count of this runtime.
fn drops_from_before_the_adoption_are_not_counted(shape: Shape) {
    const SENT: usize = 500;
    let supervisor = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = duplicate(&supervisor);
    socket.set_recv_buffer_size(4096).unwrap();
    send(SENT, supervisor.local_addr().unwrap());
    let before = left_in_queue(&socket);
    assert!(before < SENT, "the buffer is too small for all");
    let runtime = shape.runtime();
    runtime.block_on(async {
        let adopted = UdpSocket::from_std(supervisor).unwrap();
        assert_eq!(adopted.stats().dropped_by_kernel, 0, "{}", shape.name);
        adopted.drain().unwrap();
        send(3, adopted.local_addr().unwrap());
        let stats = adopted.stats();
        assert_eq!((stats.dropped_by_kernel, stats.refused), (0, 3), "{}", shape.name);
    });
}

fn exit_cannot_be_set_after_the_seal(shape: Shape) {
    shape.runtime().block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_exit(Exit::SealLast).unwrap();
        socket.drain().unwrap();
        let refused = socket.set_exit(Exit::Leave).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(socket.exit(), Exit::SealLast);
    });
}

/// Socket activation. These tests are started again, with sockets as their descriptors 3 and 4.
mod activation {
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};

    use ebbtide_testkit::child::{activate, is_child};

    use super::*;

    /// Runs `test` in a child that gets two sockets, with `announced` of them announced.
    fn run_with(test: &str, announced: usize, udp: &std::net::UdpSocket) {
        let unix = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let test = format!("exit_waits::left::activation::{test}");
        activate(&test, [udp.as_fd(), unix.as_fd()], announced);
    }

    /// Fails when a program that was started on demand seals the socket of its supervisor.
    #[test]
    fn sockets_that_were_passed_in_are_left() {
        if !is_child() {
            let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            udp.send_to(b"starts it", udp.local_addr().unwrap()).unwrap();
            run_with("sockets_that_were_passed_in_are_left", 2, &udp);
            udp.send_to(b"for the next", udp.local_addr().unwrap()).unwrap();
            udp.set_nonblocking(true).unwrap();
            let mut memory = [0; 32];
            let len = udp.recv(&mut memory).expect("the socket is not sealed");
            assert_eq!(&memory[..len], b"for the next");
            return;
        }
        Runtime::new().unwrap().block_on(async {
            let mut passed = ebbtide::net::listen_fds().unwrap().into_iter();
            let (udp, unix) = (passed.next().unwrap(), passed.next().unwrap());
            assert_eq!((udp.name(), unix.name()), (Some("statsd"), None));
            assert!(passed.next().is_none());
            assert!(ebbtide::net::listen_fds().unwrap().is_empty(), "the descriptors were taken");
            let udp = udp.into_udp_socket().unwrap();
            let unix = unix.into_unix_datagram().unwrap();
            assert_eq!((udp.exit(), unix.exit()), (Exit::Leave, Exit::Leave));
            assert_eq!(&udp.recv().await.unwrap().unwrap()[..], b"starts it");
            assert_eq!(drain().await.left, 2);
        });
    }

    /// Fails when a count that is too large hands out descriptors that the program itself opened.
    /// Those of the runtime would then be closed while it uses them.
    #[test]
    fn what_the_program_opened_was_not_passed_in() {
        if !is_child() {
            let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            return run_with("what_the_program_opened_was_not_passed_in", 4, &udp);
        }
        let runtime = Runtime::new().unwrap();
        let error = ebbtide::net::listen_fds().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("4 descriptors, but 5 was not passed in"), "{error}");
        runtime.block_on(ebbtide::task::yield_now());
    }

    /// Fails when the second call examines descriptors that the program has opened since.
    #[test]
    fn a_second_call_touches_no_descriptor() {
        if !is_child() {
            let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            return run_with("a_second_call_touches_no_descriptor", 2, &udp);
        }
        assert_eq!(ebbtide::net::listen_fds().unwrap().len(), 2);
        assert!(ebbtide::net::listen_fds().unwrap().is_empty(), "3 and 4 are closed");
        let file = std::fs::File::open("/dev/null").unwrap();
        let own = Socket::from(OwnedFd::from(file));
        assert_eq!(own.as_raw_fd(), 3);
        // For programs that this one starts.
        own.set_cloexec(false).unwrap();
        let flags = || std::fs::read_to_string("/proc/self/fdinfo/3").unwrap();
        let before = flags();
        assert!(ebbtide::net::listen_fds().unwrap().is_empty());
        assert_eq!(flags(), before);
    }
}
