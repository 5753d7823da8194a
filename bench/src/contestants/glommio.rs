//! glommio, tested with 0.9.0.
//!
//! A task per socket with a buffer of its own. A receive tries the plain call first and goes by the
//! ring only when nothing is queued; a send as well. Its Unix datagram sockets cannot be made from a
//! descriptor, so that it has no Unix sink here.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use glommio::net::UdpSocket;
use glommio::timer::Timer;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, spawn_local};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use socket2::Socket;
use tokio::sync::oneshot;

use super::{Contestant, Drain, Echo, Exit, ExitBy, Micro, Sink, Task, drain_by_hand};
use crate::harness::tally::{Flow, Tally};

pub(super) const GLOMMIO: Contestant = Contestant {
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
    ..Contestant::new("glommio", "glommio, plain calls first, then its ring")
};

fn executor() -> io::Result<LocalExecutor> {
    // The harness has pinned the thread.
    Ok(LocalExecutorBuilder::new(Placement::Unbound).make()?)
}

fn udp(socket: Socket, largest: usize) -> io::Result<UdpSocket> {
    // A receive on a non-blocking descriptor does not wait in the ring, but ends with EAGAIN.
    socket.set_nonblocking(false)?;
    let socket: net::UdpSocket = OwnedFd::from(socket).into();
    let mut socket = UdpSocket::from(socket2_04::Socket::from(socket));
    socket.set_buffer_size(largest);
    Ok(socket)
}

fn run_sink(sink: Sink) -> io::Result<()> {
    let largest = sink.largest;
    executor()?.run(async {
        for socket in sink.idle {
            let socket = udp(socket, largest)?;
            let idle = spawn_local(async move {
                let mut buffer = vec![0; largest];
                while socket.recv_from(&mut buffer).await.is_ok() {}
            });
            drop(idle.detach());
        }
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, tally) in sink.active {
            receivers.push(spawn_local(receive(udp(socket, largest)?, tally, largest)));
        }
        for receiver in receivers {
            receiver.await?;
        }
        Ok(())
    })
}

async fn receive(socket: UdpSocket, mut tally: Tally, largest: usize) -> io::Result<()> {
    let mut buffer = vec![0; largest];
    loop {
        let (length, _peer) = socket.recv_from(&mut buffer).await?;
        if tally.take(&buffer[..length]) == Flow::Done {
            return Ok(());
        }
    }
}

fn run_echo(echo: Echo) -> io::Result<()> {
    let Echo { socket, mut tally, largest } = echo;
    executor()?.run(async {
        let socket = udp(socket, largest)?;
        let server = spawn_local(async move {
            let mut buffer = vec![0; largest];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).await?;
                let flow = tally.take(&buffer[..length]);
                socket.send_to(&buffer[..length], peer).await?;
                if flow == Flow::Done {
                    tally.finish();
                    return io::Result::Ok(());
                }
            }
        });
        server.await
    })
}

/// It has no way of its own to empty a socket: the receive in flight takes one datagram more (on an
/// empty queue it would have to be woken by a datagram of one's own), the rest is read by hand.
fn run_drain(drain: Drain) -> io::Result<()> {
    let Drain { socket, mut tally, backlog, largest } = drain;
    let rest = drain_by_hand::second(&socket)?;
    executor()?.run(async {
        let socket = udp(socket, largest)?;
        let stop = Rc::new(Cell::new(false));
        let stopping = Rc::clone(&stop);
        let receiver = spawn_local(async move {
            let mut buffer = vec![0; largest];
            loop {
                let (length, _peer) = socket.recv_from(&mut buffer).await?;
                let _ = tally.take(&buffer[..length]);
                if stopping.get() {
                    return io::Result::Ok(tally);
                }
            }
        });
        glommio::executor().yield_now().await;
        stop.set(true);
        backlog.fill();
        let mut tally = receiver.await?;
        drain_by_hand::read_to_the_end(&rest, &mut tally, largest)
    })?;
    drop(rest);
    backlog.finish();
    Ok(())
}

fn run_exit(exit: Exit) -> io::Result<()> {
    let Exit { socket, mut tally, by, largest } = exit;
    executor()?.run(async {
        // It has no signals: a thread of its pool waits.
        let mut signals = Signals::new([SIGTERM])?;
        let socket = udp(socket, largest)?;
        let (tell, enough) = oneshot::channel();
        let mut tell = Some(tell);
        drop(
            spawn_local(async move {
                let mut buffer = vec![0; largest];
                while let Ok((length, _peer)) = socket.recv_from(&mut buffer).await {
                    if tally.take(&buffer[..length]) == Flow::Done
                        && let Some(tell) = tell.take()
                    {
                        // The main future waits for it, or for the signal instead.
                        let _ = tell.send(());
                    }
                }
            })
            .detach(),
        );
        match by {
            ExitBy::Return => enough.await.map_err(io::Error::other),
            ExitBy::Signal => {
                let wait = move || signals.forever().next().map(drop);
                let signal = glommio::executor().spawn_blocking(wait).await;
                signal.ok_or_else(|| io::Error::other("no signal"))
            }
        }
    })
}

fn run_spawn(micro: &Micro) -> io::Result<()> {
    executor()?.run(async {
        let mut handles = Vec::new();
        for batch in micro.batches() {
            handles.extend((0..batch).map(|_| spawn_local(async { 1 })));
            let mut done = 0;
            for handle in handles.drain(..) {
                done += handle.await;
            }
            micro.did(done);
        }
        Ok(())
    })
}

fn run_yields(micro: &Micro) -> io::Result<()> {
    executor()?.run(async {
        for batch in micro.batches() {
            let task = spawn_local(async move {
                let mut ran = 0;
                for _ in 0..batch {
                    glommio::executor().yield_now().await;
                    ran += 1;
                }
                ran
            });
            micro.did(task.await);
        }
        Ok(())
    })
}

/// Timers that one task polls: it panics past 32 767 copies of the waker of a task.
const TIMERS: u64 = 10_000;

fn run_timers(micro: &Micro) -> io::Result<()> {
    executor()?.run(async {
        let mut armed = Vec::new();
        for batch in micro.batches() {
            for first in (0..batch).step_by(TIMERS as usize) {
                let indices = first..batch.min(first + TIMERS);
                let task = spawn_local(async move {
                    let mut timers: Vec<Timer> = indices
                        .map(|index| Timer::new(Duration::from_millis(1_000 + index % 59_000)))
                        .collect();
                    let pending = poll_fn(|cx| {
                        let pending = timers
                            .iter_mut()
                            .map(|timer| u64::from(Pin::new(timer).poll(cx).is_pending()));
                        Poll::Ready(pending.sum::<u64>())
                    });
                    (pending.await, timers)
                });
                armed.push(task.await);
            }
            micro.did(armed.iter().map(|(pending, _timers)| pending).sum());
            armed.clear();
        }
        Ok(())
    })
}

fn run_task(task: Task) -> io::Result<()> {
    executor()?.run(async {
        spawn_local(task).await;
        Ok(())
    })
}
