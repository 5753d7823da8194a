//! A late completion never reaches a reused slot.
//!
//! Cause: a dropped operation freed its slot in the table at once. The completion of the cancelled
//! request, which comes later, was then given to the next operation in that slot. That operation
//! got a wrong result, and its buffer was freed while the kernel used it. Here a dropped operation
//! keeps its slot until its final completion, and ids also carry a generation.

use std::os::unix::net;

use ebbtide::net::UnixDatagram;
use ebbtide::spawn;
use ebbtide::task::yield_now;
use ebbtide_testkit::{Shape, on_every_shape};
use futures_util::FutureExt;

on_every_shape!(results_of_sends_are_never_mixed_up_with_those_of_dropped_ones);

const ROUNDS: usize = 500;
const AT_ONCE: usize = 16;

/// Fails when a dropped operation frees its slot at once and ids carry no generation.
fn results_of_sends_are_never_mixed_up_with_those_of_dropped_ones(shape: Shape) {
    let runtime = shape.runtime();
    runtime.block_on(async {
        let (socket, peer) = net::UnixDatagram::pair().unwrap();
        let socket = UnixDatagram::from_std(socket).unwrap();
        peer.set_nonblocking(true).unwrap();
        let mut random = fastrand::Rng::with_seed(3);
        let memory = [0; 4096];
        for _ in 0..ROUNDS {
            while socket.try_send(b"").is_ok() {}
            let mut dropped: Vec<_> = (0..AT_ONCE).map(|_| socket.send(&memory[..1])).collect();
            for send in &mut dropped {
                assert!(send.now_or_never().is_none(), "the queue is full");
            }
            // In some rounds the kernel has them, and in some it has answered them.
            for _ in 0..random.usize(0..=2) {
                yield_now().await;
            }
            if random.usize(0..=1) == 0 {
                read(&peer, random.usize(0..=AT_ONCE));
            }
            drop(dropped);
            // These take slots that are free or soon will be. Each result is the length of its
            // datagram.
            let lens: Vec<_> = (0..AT_ONCE).map(|_| random.usize(2..=memory.len())).collect();
            let mut sends: Vec<_> = lens.iter().map(|&len| socket.send(&memory[..len])).collect();
            let mut results: Vec<_> = sends.iter_mut().map(|send| send.now_or_never()).collect();
            let reading = spawn({
                let peer = peer.try_clone().unwrap();
                async move {
                    loop {
                        read(&peer, usize::MAX);
                        yield_now().await;
                    }
                }
            });
            for (result, send) in results.iter_mut().zip(sends) {
                if result.is_none() {
                    *result = Some(send.await);
                }
            }
            reading.abort();
            for (result, len) in results.into_iter().zip(lens) {
                assert_eq!(result.expect("all were awaited").unwrap(), len, "{}", shape.name);
            }
        }
    });
}

/// Makes space: takes up to `most` datagrams.
fn read(peer: &net::UnixDatagram, most: usize) {
    let mut taken = 0;
    while taken < most && peer.recv(&mut [0; 4096]).is_ok() {
        taken += 1;
    }
}
