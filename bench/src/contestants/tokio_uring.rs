//! tokio-uring, tested with 0.5.0.
//!
//! A task per socket, which gives its one buffer away with each receive and gets it back: its
//! interface has no other form. It has no Unix datagram sockets. `DEFER_TASKRUN` is out of the
//! question, because it waits for its ring with epoll, and `COOP_TASKRUN` is the next best.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::join;
use socket2::Socket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio_uring::net::UdpSocket;

use super::{Contestant, Drain, Echo, Exit, ExitBy, Micro, Sink, Task, drain_by_hand};
use crate::harness::tally::{Flow, Tally};

pub(super) const TOKIO_URING: Contestant = Contestant {
    sink: Some(run_sink),
    // It knows no GRO: this is what its users get from a sender in trains.
    sink_gro: Some(run_sink),
    echo: Some(run_echo),
    echo_coalesced: Some(run_echo),
    drain: Some(run_drain),
    exit: Some(run_exit),
    spawn: Some(|micro| run_spawn(&micro)),
    yields: Some(|micro| run_yields(&micro)),
    timers: Some(|micro| run_timers(&micro)),
    run_task: Some(run_task),
    ..Contestant::new("tokio-uring", "tokio-uring, one-shot receives")
};

fn start<T>(program: impl Future<Output = T>) -> T {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_single_issuer().setup_coop_taskrun();
    tokio_uring::builder().entries(1024).uring_builder(&ring).start(program)
}

fn udp(socket: Socket) -> io::Result<UdpSocket> {
    // A receive on a non-blocking descriptor does not wait in the ring, but ends with EAGAIN.
    socket.set_nonblocking(false)?;
    Ok(UdpSocket::from_std(OwnedFd::from(socket).into()))
}

fn run_sink(sink: Sink) -> io::Result<()> {
    let largest = sink.largest;
    start(async {
        for socket in sink.idle {
            let socket = udp(socket)?;
            drop(tokio_uring::spawn(async move {
                let mut received = socket.recv_from(Vec::with_capacity(largest)).await;
                while received.0.is_ok() {
                    received = socket.recv_from(received.1).await;
                }
            }));
        }
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, tally) in sink.active {
            receivers.push(tokio_uring::spawn(receive(udp(socket)?, tally, largest)));
        }
        for receiver in receivers {
            receiver.await.map_err(io::Error::other)??;
        }
        Ok(())
    })
}

async fn receive(socket: UdpSocket, mut tally: Tally, largest: usize) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(largest);
    loop {
        let (received, filled) = socket.recv_from(buffer).await;
        let (length, _peer) = received?;
        if tally.take(&filled[..length]) == Flow::Done {
            return Ok(());
        }
        buffer = filled;
    }
}

/// Two buffers in turn, so that an answer and the next receive are submitted together.
fn run_echo(echo: Echo) -> io::Result<()> {
    let Echo { socket, mut tally, largest } = echo;
    start(async {
        let socket = udp(socket)?;
        let server = tokio_uring::spawn(async move {
            let mut spare = Vec::with_capacity(largest);
            let mut received = socket.recv_from(Vec::with_capacity(largest)).await;
            loop {
                let (length, peer) = received.0?;
                let mut request = received.1;
                request.truncate(length);
                if tally.take(&request) == Flow::Done {
                    socket.send_to(request, peer).await.0?;
                    tally.finish();
                    return io::Result::Ok(());
                }
                let (sent, next) = join!(socket.send_to(request, peer), socket.recv_from(spare));
                sent.0?;
                (spare, received) = (sent.1, next);
            }
        });
        server.await.map_err(io::Error::other)?
    })
}

/// It has no way of its own to empty a socket: the receive in flight takes one datagram more (on an
/// empty queue it would have to be woken by a datagram of one's own), the rest is read by hand.
fn run_drain(drain: Drain) -> io::Result<()> {
    let Drain { socket, mut tally, backlog, largest } = drain;
    let rest = drain_by_hand::second(&socket)?;
    start(async {
        let socket = udp(socket)?;
        let stop = Rc::new(Cell::new(false));
        let stopping = Rc::clone(&stop);
        let receiver = tokio_uring::spawn(async move {
            let mut buffer = Vec::with_capacity(largest);
            loop {
                let (received, filled) = socket.recv_from(buffer).await;
                let (length, _peer) = received?;
                let _ = tally.take(&filled[..length]);
                if stopping.get() {
                    return io::Result::Ok(tally);
                }
                buffer = filled;
            }
        });
        yield_now().await;
        stop.set(true);
        backlog.fill();
        let mut tally = receiver.await.map_err(io::Error::other)??;
        drain_by_hand::read_to_the_end(&rest, &mut tally, largest)
    })?;
    drop(rest);
    backlog.finish();
    Ok(())
}

fn run_exit(exit: Exit) -> io::Result<()> {
    let Exit { socket, mut tally, by, largest } = exit;
    start(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let socket = udp(socket)?;
        let (tell, enough) = oneshot::channel();
        let mut tell = Some(tell);
        drop(tokio_uring::spawn(async move {
            let mut buffer = Vec::with_capacity(largest);
            loop {
                let (received, filled) = socket.recv_from(buffer).await;
                let Ok((length, _peer)) = received else { return };
                if tally.take(&filled[..length]) == Flow::Done
                    && let Some(tell) = tell.take()
                {
                    // The main future waits for it, or for the signal instead.
                    let _ = tell.send(());
                }
                buffer = filled;
            }
        }));
        match by {
            ExitBy::Return => enough.await.map_err(io::Error::other),
            ExitBy::Signal => terminate.recv().await.ok_or_else(|| io::Error::other("no signal")),
        }
    })
}

fn run_spawn(micro: &Micro) -> io::Result<()> {
    start(async {
        let mut handles = Vec::new();
        for batch in micro.batches() {
            handles.extend((0..batch).map(|_| tokio_uring::spawn(async { 1 })));
            let mut done = 0;
            for handle in handles.drain(..) {
                done += handle.await.map_err(io::Error::other)?;
            }
            micro.did(done);
        }
        Ok(())
    })
}

fn run_yields(micro: &Micro) -> io::Result<()> {
    start(async {
        for batch in micro.batches() {
            let task = tokio_uring::spawn(async move {
                let mut ran = 0;
                for _ in 0..batch {
                    yield_now().await;
                    ran += 1;
                }
                ran
            });
            micro.did(task.await.map_err(io::Error::other)?);
        }
        Ok(())
    })
}

fn run_timers(micro: &Micro) -> io::Result<()> {
    start(async {
        let mut sleeps = Vec::new();
        for batch in micro.batches() {
            sleeps.extend((0..batch).map(|index| {
                Box::pin(tokio::time::sleep(Duration::from_millis(1_000 + index % 59_000)))
            }));
            let pending = poll_fn(|cx| {
                let pending =
                    sleeps.iter_mut().map(|sleep| u64::from(sleep.as_mut().poll(cx).is_pending()));
                Poll::Ready(pending.sum::<u64>())
            });
            micro.did(pending.await);
            sleeps.clear();
        }
        Ok(())
    })
}

fn run_task(task: Task) -> io::Result<()> {
    start(async {
        tokio_uring::spawn(task).await.map_err(io::Error::other)?;
        Ok(())
    })
}
