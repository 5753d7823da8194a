//! A socket that outlives its runtime is closed, and the errors of its methods say so.

use std::io;

use ebbtide::net::UdpSocket;
use ebbtide::{Drain, DrainOutcome};
use ebbtide_testkit::{Shape, on_every_shape};
use futures_util::FutureExt;

on_every_shape!(
    a_socket_that_outlives_its_runtime_is_closed_but_harmless,
    a_socket_that_outlives_its_runtime_can_be_polled_any_number_of_times,
    every_method_of_a_socket_that_outlives_its_runtime_says_why_it_fails,
);

/// Fails when the end of the runtime does not free the descriptor, because the address is then in
/// use.
fn a_socket_that_outlives_its_runtime_is_closed_but_harmless(shape: Shape) {
    let runtime = shape.runtime();
    let (udp, address) = runtime.block_on(async {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        udp.send_to(b"nobody takes it", address).await.unwrap();
        (udp, address)
    });
    let report = runtime.shutdown(Drain::default().deadline(std::time::Duration::ZERO));
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::DeadlinePassed, 1), "{report}");
    let other = std::net::UdpSocket::bind(address).expect("the address is free");

    assert!(udp.recv().now_or_never().expect("the runtime has ended").unwrap().is_none());
    assert!(udp.try_recv().unwrap().is_none());
    udp.drain().unwrap();
    let refusals = [
        udp.try_send_to(b"late", address).unwrap_err(),
        udp.send_to(b"late", address).now_or_never().expect("the runtime has ended").unwrap_err(),
        udp.writable().now_or_never().expect("the runtime has ended").unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.kind(), io::ErrorKind::NotConnected);
        assert!(refusal.to_string().contains("runtime of this socket has ended"), "{refusal}");
    }
    let stats = udp.stats();
    assert_eq!((stats.received, stats.delivered, stats.discarded), (1, 0, 1), "{}", shape.name);

    drop(udp);
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"for the new owner", address).unwrap();
    assert_eq!(
        other.recv(&mut [0; 64]).unwrap(),
        17,
        "dropping the socket late closed another socket"
    );
}

/// Fails when the budget of a poll, which only a runtime refills, is used outside of a runtime.
fn a_socket_that_outlives_its_runtime_can_be_polled_any_number_of_times(shape: Shape) {
    let runtime = shape.runtime();
    let udp = runtime.block_on(async { UdpSocket::bind("127.0.0.1:0").unwrap() });
    runtime.shutdown(Drain::default());
    for poll in 0..1_000 {
        let polled = udp.recv().now_or_never();
        let received = polled.unwrap_or_else(|| panic!("poll {poll} is pending for ever"));
        assert!(received.unwrap().is_none());
    }
}

fn every_method_of_a_socket_that_outlives_its_runtime_says_why_it_fails(shape: Shape) {
    let runtime = shape.runtime();
    let udp = runtime.block_on(async { UdpSocket::bind("127.0.0.1:0").unwrap() });
    let address = udp.local_addr().unwrap();
    runtime.shutdown(Drain::default());
    let refusals = [
        udp.try_send_to(b"late", address).unwrap_err(),
        udp.connect(address).unwrap_err(),
        udp.local_addr().unwrap_err(),
        udp.recv_buffer_size().unwrap_err(),
        udp.into_std().unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.kind(), io::ErrorKind::NotConnected, "{refusal}");
    }
}
