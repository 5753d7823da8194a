//! A datagram was copied out of the pool because of buffers that held no datagram.
//!
//! Causes, in the order of the tests. On epoll, buffers that a read had taken and not filled
//! counted as held while its socket was handed its datagrams. On a ring, the buffer of the next
//! completion was taken before the messages of the previous socket were handed over.
//! completion was taken before the messages of the socket before it were handed over.

use ebbtide::net::UnixDatagram;
use ebbtide::task::yield_now;
use ebbtide_testkit::{Shape, on_every_shape};

on_every_shape!(
    a_lone_datagram_stays_in_the_pool,
    the_first_of_two_sockets_is_judged_before_the_second_is_served,
);

/// Sends `counts` datagrams to the sockets. Returns how many buffers they hold before any datagram
/// is taken.
fn held(shape: Shape, buffers: usize, counts: &[usize]) -> usize {
    let runtime = shape.builder().buffers(buffers).build().unwrap();
    runtime.block_on(async {
        let pairs: Vec<_> = counts.iter().map(|_| UnixDatagram::pair().unwrap()).collect();
        yield_now().await;
        for ((sender, _), &count) in pairs.iter().zip(counts) {
            for _ in 0..count {
                sender.try_send(b"waits").unwrap();
            }
        }
        let sent: usize = counts.iter().sum();
        let received = || pairs.iter().map(|(_, receiver)| receiver.stats().received).sum::<u64>();
        for _ in 0..1_000 {
            if received() == sent as u64 {
                break;
            }
            yield_now().await;
        }
        assert_eq!(received(), sent as u64);
        buffers - runtime.metrics().free_buffers
    })
}

fn a_lone_datagram_stays_in_the_pool(shape: Shape) {
    assert_eq!(held(shape, 4, &[1]), 1);
}

/// The first holds half of the pool, which is its share. Which one is served first is up to the
/// kernel (docs/kernel.md, K-RING-12).
fn the_first_of_two_sockets_is_judged_before_the_second_is_served(shape: Shape) {
    assert_eq!(held(shape, 4, &[2, 1]).max(held(shape, 4, &[1, 2])), 3);
}
