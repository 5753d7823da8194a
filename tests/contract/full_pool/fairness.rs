//! A socket that is never empty does not make the others wait.

use std::cell::Cell;
use std::rc::Rc;

use ebbtide::net::UnixDatagram;
use ebbtide::task::yield_now;
use ebbtide_testkit::{Shape, on_every_shape};

on_every_shape!(a_flooded_socket_delays_others_by_a_bounded_number_of_datagrams);

const OTHERS: usize = 99;
const ROUNDS: usize = 50;

/// The bound of ARCHITECTURE.md, counted in datagrams and not in time. It limits how many datagrams
/// a flooded socket gets between the send and the receipt of another datagram: the buffers of the
/// pool, the sockets of the runtime, and 66 more for two enters. Fails, on a tiny pool, when a
/// receive that resumes does not join the end of those that wait for buffers.
fn a_flooded_socket_delays_others_by_a_bounded_number_of_datagrams(shape: Shape) {
    let runtime = shape.runtime();
    let bound = runtime.metrics().free_buffers as u64 + OTHERS as u64 + 66;
    runtime.block_on(async {
        let (flooded, flood) = std::os::unix::net::UnixDatagram::pair().unwrap();
        flood.set_nonblocking(true).unwrap();
        let flooded = UnixDatagram::from_std(flooded).unwrap();
        flood.send(b"the first").unwrap();
        let count = Rc::new(Cell::new(0u64));
        ebbtide::spawn({
            let count = Rc::clone(&count);
            async move {
                while flooded.recv().await.unwrap().is_some() {
                    count.set(count.get() + 1);
                    // Never empty, because what is taken is replaced at once.
                    while flood.send(b"flood").is_ok() {}
                }
            }
        });
        let pairs: Vec<_> = (0..OTHERS).map(|_| UnixDatagram::pair().unwrap()).collect();
        let worst = Rc::new(Cell::new(0));
        let sent_at = Rc::new(Cell::new(0u64));
        let served = Rc::new(Cell::new(0usize));
        let mut senders = Vec::new();
        for (sender, receiver) in pairs {
            senders.push(sender);
            let (worst, sent_at) = (Rc::clone(&worst), Rc::clone(&sent_at));
            let (served, count) = (Rc::clone(&served), Rc::clone(&count));
            ebbtide::spawn(async move {
                while receiver.recv().await.unwrap().is_some() {
                    worst.set(worst.get().max(count.get() - sent_at.get()));
                    served.set(served.get() + 1);
                }
            });
        }
        while count.get() == 0 {
            yield_now().await;
        }
        for round in 1..=ROUNDS {
            sent_at.set(count.get());
            for sender in &senders {
                sender.send(b"now and then").await.unwrap();
            }
            while served.get() < round * OTHERS {
                let waited = count.get() - sent_at.get();
                assert!(waited <= bound, "{}: not served after {waited}", shape.name);
                yield_now().await;
            }
        }
        let flooded = count.get();
        println!("{}: {flooded} flooded, worst {} of at most {bound}", shape.name, worst.get());
        assert!(flooded > 2 * ROUNDS as u64, "there was no flood");
    });
    runtime.stop();
}
