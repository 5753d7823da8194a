//! Forked children. What a child inherits of a runtime belongs to its parent. Using it fails with a
//! clear error, dropping it does nothing, and the child can have its own runtime.

use std::cell::Cell;
use std::fmt::Debug;
use std::io;
use std::os::unix::net;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use ebbtide::net::{Datagram, UdpSocket, UnixAddr, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainOutcome, Runtime, spawn};
use ebbtide_testkit::Shape;
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::fork::{Child, Fork, end};
use futures_util::FutureExt;

/// The text that every refusal contains.
const SENTENCE: &str = "was made before the process forked";

/// Fails unless `body` panics with a message about the fork.
fn assert_panics<T: Debug>(what: &str, body: impl FnOnce() -> T) {
    let panic = catch_unwind(AssertUnwindSafe(body)).expect_err(what);
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message =
        message.or(panic.downcast_ref::<&str>().copied()).expect("the panic has a message");
    assert!(message.contains(SENTENCE), "{what}: {message}");
}

fn assert_refused<T: Debug>(what: &str, result: io::Result<T>) {
    let message = result.expect_err(what).to_string();
    assert!(message.contains(SENTENCE), "{what}: {message}");
}

/// Polls a future that is ready at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the future is ready at once")
}

/// A Unix socket with `count` datagrams, some of them in its inbox, and its sender.
async fn with_datagrams(count: u8) -> (net::UnixDatagram, UnixDatagram) {
    let (sender, receiver) = net::UnixDatagram::pair().unwrap();
    let receiver = UnixDatagram::from_std(receiver).unwrap();
    for number in 0..count {
        sender.send(&[number]).unwrap();
    }
    for _ in 0..3 {
        yield_now().await;
    }
    (sender, receiver)
}

/// Fails when a call in the child accesses memory that the child does not have (a SIGSEGV), or
/// state of its parent.
#[test]
fn what_a_child_calls_on_an_inherited_runtime_is_refused_with_a_sentence() {
    in_a_child(|| {
        for (shape, fork) in
            Shape::ALL.into_iter().flat_map(|shape| [(shape, Fork::Libc), (shape, Fork::Kernel)])
        {
            let runtime = shape.runtime();
            let (sender, unix) = runtime.block_on(with_datagrams(3));
            let udp = runtime.block_on(async { UdpSocket::bind("127.0.0.1:0").unwrap() });
            let address = udp.local_addr().unwrap();
            let mut all = Some((runtime, unix, udp));
            let child = Child::made_by(fork, || {
                let (runtime, unix, udp) = all.take().expect("the child has its own copy");
                assert_panics("block_on", || runtime.block_on(async {}));
                assert_panics("spawn", || drop(runtime.spawn(async {})));
                assert_panics("spawn by the handle", || drop(runtime.handle().spawn(async {})));
                assert_refused("recv", now(unix.recv()));
                assert_refused("recv_from", now(unix.recv_from(&mut [0])));
                assert_refused("recv_batch", now(unix.recv_batch(&mut Vec::new(), 8)));
                assert_refused("try_recv", unix.try_recv());
                assert_refused("send", now(unix.send(b"x")));
                assert_refused("try_send", unix.try_send(b"x"));
                assert_refused("writable", now(unix.writable()));
                assert_refused("drain", unix.drain());
                assert_refused("send_to", now(udp.send_to(b"x", address)));
                assert_refused("UDP's drain", udp.drain());
                assert_refused("set_gro", udp.set_gro(false));
                assert_refused("local_addr", udp.local_addr());
                assert_refused("into_std", udp.into_std());
                assert_refused("into_std", unix.into_std());
                assert_panics("shutdown", || runtime.shutdown(Drain::default()));
            });
            child.join();
            // Nothing has changed in the parent.
            let (runtime, unix, _udp) = all.take().expect("only the child has taken it");
            sender.send(&[3]).unwrap();
            for number in 0..=3 {
                let received = runtime.block_on(unix.recv()).unwrap().expect("not drained");
                assert_eq!(received[..], [number], "{}", shape.name);
            }
        }
    });
}

/// Everything that a program may hold of a runtime. The fields are dropped in this order.
struct Holdings {
    datagram: Datagram<UnixAddr>,
    _futures: Vec<Pin<Box<dyn Future<Output = ()>>>>,
    unix: Rc<UnixDatagram>,
    _full: Rc<UnixDatagram>,
    _udp: Rc<UdpSocket>,
    runtime: Runtime,
}

impl Holdings {
    /// Returns the peers of both Unix sockets as well.
    fn new(shape: Shape) -> (Self, net::UnixDatagram, net::UnixDatagram) {
        let runtime = shape.runtime();
        let (sender, unix) = runtime.block_on(with_datagrams(3));
        let datagram = runtime.block_on(unix.recv()).unwrap().expect("a datagram is queued");
        let (full, peer) = net::UnixDatagram::pair().unwrap();
        let (unix, full, udp) = runtime.block_on(async {
            let full = UnixDatagram::from_std(full).unwrap();
            while full.try_send(&[0; 2_000]).is_ok() {}
            (Rc::new(unix), Rc::new(full), Rc::new(UdpSocket::bind("127.0.0.1:0").unwrap()))
        });
        let (receiving, sending, holding) = (Rc::clone(&udp), Rc::clone(&full), Rc::clone(&unix));
        let mut futures: Vec<Pin<Box<dyn Future<Output = ()>>>> = vec![
            Box::pin(async move { drop(receiving.recv().await) }),
            Box::pin(async move { drop(sending.send(&[1; 2_000]).await) }),
            Box::pin(async move {
                let _held = holding;
                sleep(Duration::from_secs(3_600)).await;
            }),
            Box::pin(async { drop(ebbtide::signal::terminate().await) }),
        ];
        runtime.block_on(async {
            for future in &mut futures {
                assert!(future.as_mut().now_or_never().is_none());
            }
            yield_now().await;
            spawn(std::future::pending::<()>());
        });
        (Self { datagram, _futures: futures, unix, _full: full, _udp: udp, runtime }, sender, peer)
    }
}

/// Fails when the child cancels operations of its parent, seals its sockets, removes them from the
/// shared epoll, or accesses memory that it does not have.
#[test]
fn a_child_that_drops_what_it_inherited_leaves_its_parent_as_it_was() {
    in_a_child(|| {
        for (shape, fork) in
            Shape::ALL.into_iter().flat_map(|shape| [(shape, Fork::Libc), (shape, Fork::Kernel)])
        {
            let (holdings, sender, peer) = Holdings::new(shape);
            let mut holdings = Some(holdings);
            let child = Child::made_by(fork, || drop(holdings.take()));
            child.join();
            let holdings = holdings.take().expect("only the child has dropped it");
            let Holdings { datagram, _futures, unix, _full, _udp, runtime } = holdings;
            assert_eq!(datagram[..], [0], "{}", shape.name);
            runtime.block_on(async {
                // The socket is not sealed, and its receive goes on.
                sender.send(&[3]).unwrap();
                for number in 1..=3 {
                    let received = unix.recv().await.unwrap().expect("not drained");
                    assert_eq!(received[..], [number], "{}", shape.name);
                }
                // The wait for space goes on as well.
                let mut futures = _futures;
                while peer.recv(&mut [0; 2_000]).unwrap() == 2_000 {
                    if futures[1].as_mut().now_or_never().is_some() {
                        break;
                    }
                    yield_now().await;
                }
                drop(futures);
            });
            drop((datagram, unix));
            let report = runtime.shutdown(Drain::default());
            assert_eq!(report.outcome, DrainOutcome::Complete, "{}: {report}", shape.name);
            assert_eq!(report.operations_leaked, 0, "{}: {report}", shape.name);
        }
    });
}

/// A program forks in a task, and the child goes on. Fails when the turn of the child enters the
/// ring of its parent.
#[test]
fn a_child_made_by_a_task_panics_with_a_sentence_when_the_task_goes_on() {
    in_a_child(|| {
        for (shape, in_a_task) in
            Shape::ALL.into_iter().flat_map(|shape| [(shape, false), (shape, true)])
        {
            let runtime = shape.runtime();
            let made = Cell::new(None);
            let turns = || {
                runtime.block_on(async {
                    let (_sender, socket) = with_datagrams(3).await;
                    let first = socket.recv().await.unwrap().expect("a datagram is queued");
                    let id = if in_a_task {
                        spawn(async { Fork::Libc.fork() }).await.unwrap()
                    } else {
                        Fork::Libc.fork()
                    };
                    made.set(Some(id));
                    yield_now().await;
                    assert_eq!(first[..], [0]);
                    socket.drain().unwrap();
                    let mut left = 0;
                    while socket.recv().await.unwrap().is_some() {
                        left += 1;
                    }
                    left
                })
            };
            let result = catch_unwind(AssertUnwindSafe(turns));
            // In a child that was made by a task, the main future was not notified.
            match made.get() {
                Some(id) if id > 0 => {
                    assert_eq!(result.expect("the parent goes on"), 2, "{}", shape.name);
                    Child::of(id).join();
                }
                _ => {
                    let panic = result.expect_err("a child does not go on");
                    let is_told = || assert_panics("the task goes on", || resume_unwind(panic));
                    end(catch_unwind(AssertUnwindSafe(is_told)).is_ok());
                }
            }
        }
    });
}

/// Fails when a part of the parent's runtime that the child drops unmaps memory of the child's own
/// runtime, which may lie at the same address.
#[test]
fn a_child_has_a_runtime_of_its_own_beside_what_it_inherited() {
    in_a_child(|| {
        for shape in Shape::ALL {
            let (holdings, _sender, _peer) = Holdings::new(shape);
            // A runtime that has ended, whose memory a datagram keeps.
            let ended = shape.runtime();
            let (_, socket) = ended.block_on(with_datagrams(2));
            let kept = ended.block_on(socket.recv()).unwrap().expect("a datagram is queued");
            drop((socket, ended));
            let (mut holdings, mut kept) = (Some(holdings), Some(kept));
            let child = Child::new(|| {
                let own = shape.runtime();
                let (sender, socket) = own.block_on(with_datagrams(0));
                let pass = |from: u8| {
                    own.block_on(async {
                        for number in from..from + 100 {
                            sender.send(&[number]).unwrap();
                            let received = socket.recv().await.unwrap().expect("not drained");
                            assert_eq!(received[..], [number]);
                        }
                    });
                };
                pass(0);
                drop(kept.take());
                drop(holdings.take());
                pass(100);
                let report = own.shutdown(Drain::default());
                assert_eq!(report.stats.delivered, 200, "{report}");
            });
            child.join();
            assert_eq!(kept.take().expect("the parent still has it")[..], [0]);
        }
    });
}

/// Fails when a child that was made by a task cannot have a runtime, because its thread is in the
/// runtime of its parent.
#[test]
fn a_child_made_inside_a_runtime_can_make_its_own() {
    in_a_child(|| {
        for shape in Shape::ALL {
            shape.runtime().block_on(async {
                let (_sender, socket) = with_datagrams(1).await;
                let child = Child::new(|| {
                    let own = shape.runtime();
                    let received = own.block_on(async {
                        let (_sender, socket) = with_datagrams(1).await;
                        let task = spawn(async move { socket.recv().await.unwrap().unwrap()[0] });
                        task.await.unwrap()
                    });
                    assert_eq!(received, 0);
                    drop(own);
                    // Back in the runtime of its parent.
                    assert_panics("spawn", || drop(spawn(async {})));
                    assert_refused("bind", UdpSocket::bind("127.0.0.1:0"));
                });
                child.join();
                assert_eq!(socket.recv().await.unwrap().expect("a datagram is queued")[..], [0]);
            });
        }
    });
}

/// Fails, by a SIGSEGV, when memory is read that the child does not have.
#[test]
fn a_datagram_that_a_child_inherited_says_that_it_is_not_there() {
    in_a_child(|| {
        for shape in Shape::ALL {
            let runtime = shape.runtime();
            let (sender, socket) = runtime.block_on(with_datagrams(2));
            let datagram = runtime.block_on(socket.recv()).unwrap().expect("a datagram is queued");
            let copy = datagram.to_vec();
            let child = Child::new(|| {
                for read in [
                    &(|| drop(datagram.to_vec())) as &dyn Fn(),
                    &|| drop(datagram.peer().clone()),
                    &|| assert_eq!(socket.stats().received, 0),
                ] {
                    let panic =
                        catch_unwind(AssertUnwindSafe(read)).expect_err("the memory is not there");
                    let message = panic.downcast_ref::<&str>().expect("the panic has a message");
                    assert!(message.contains("copy them before the fork"), "{message}");
                }
                assert_eq!(copy, [0]);
                drop((datagram, socket));
            });
            child.join();
            drop(sender);
        }
    });
}
