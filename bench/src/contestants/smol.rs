//! smol on one thread, tested with 2.0.2: its `LocalExecutor` under its `block_on`.
//!
//! A task per socket with a buffer of its own; `Async` tries first and waits for readiness only
//! after `EAGAIN`. smol starts a thread that waits for readiness when no `block_on` does, whose
//! time counts as well.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use async_signal::{Signal, Signals};
use smol::future::yield_now;
use smol::stream::StreamExt;
use smol::{Async, LocalExecutor, Task, Timer};
use socket2::Socket;
use tokio::sync::oneshot;

use super::micro::{self, Tasks};
use super::{Contestant, Drain, Echo, Exit, ExitBy, Sink, drain_directly};
use crate::harness::stopwatch::Clock;
use crate::harness::tally::{Flow, Tally};

pub(super) const SMOL: Contestant = Contestant {
    clock: Clock::Process,
    sink: Some(run_sink),
    // It has no GRO: this is what its users get from a sender of trains.
    sink_gro: Some(run_sink),
    unix_sink: Some(run_unix_sink),
    echo: Some(run_echo),
    echo_coalesced: Some(run_echo),
    drain: Some(run_drain),
    exit: Some(run_exit),
    spawn: Some(|micro| block_on(async |executor| micro::spawn(executor, micro).await)),
    yields: Some(|micro| block_on(async |executor| micro::yields(executor, micro).await)),
    timers: Some(|micro| block_on(async |executor| micro::timers(executor, micro).await)),
    run_task: Some(|task| block_on(async |executor| micro::run_task(executor, task).await)),
    ..Contestant::new("smol", "smol, a LocalExecutor under block_on")
};

fn udp(socket: Socket) -> io::Result<Async<UdpSocket>> {
    Async::new_nonblocking(OwnedFd::from(socket).into())
}

fn run_sink(sink: Sink) -> io::Result<()> {
    let largest = sink.largest;
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        for socket in sink.idle {
            let socket = udp(socket)?;
            let idle = executor.spawn(async move {
                let mut buffer = vec![0; largest];
                while socket.recv_from(&mut buffer).await.is_ok() {}
            });
            idle.detach();
        }
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, tally) in sink.active {
            receivers.push(executor.spawn(receive(udp(socket)?, tally, largest)));
        }
        for receiver in receivers {
            receiver.await?;
        }
        Ok(())
    }))
}

async fn receive(socket: Async<UdpSocket>, mut tally: Tally, largest: usize) -> io::Result<()> {
    let mut buffer = vec![0; largest];
    loop {
        let (length, _peer) = socket.recv_from(&mut buffer).await?;
        if tally.take(&buffer[..length]) == Flow::Done {
            return Ok(());
        }
    }
}

fn run_unix_sink(sink: Sink) -> io::Result<()> {
    let largest = sink.largest;
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, mut tally) in sink.active {
            let socket = Async::<UnixDatagram>::new_nonblocking(OwnedFd::from(socket).into())?;
            receivers.push(executor.spawn(async move {
                let mut buffer = vec![0; largest];
                loop {
                    let (length, _peer) = socket.recv_from(&mut buffer).await?;
                    if tally.take(&buffer[..length]) == Flow::Done {
                        return io::Result::Ok(());
                    }
                }
            }));
        }
        for receiver in receivers {
            receiver.await?;
        }
        Ok(())
    }))
}

fn run_echo(echo: Echo) -> io::Result<()> {
    let Echo { socket, mut tally, largest } = echo;
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let socket = udp(socket)?;
        let server = executor.spawn(async move {
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
    }))
}

/// It has no function that empties a socket: this is the loop until `EAGAIN`, on `get_ref`, that
/// its users have to write.
fn run_drain(drain: Drain) -> io::Result<()> {
    let Drain { socket, mut tally, backlog, largest } = drain;
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let socket = udp(socket)?;
        backlog.fill();
        drain_directly::read_to_the_end(socket.get_ref(), &mut tally, largest)
    }))?;
    drop(executor);
    backlog.finish();
    Ok(())
}

fn run_exit(exit: Exit) -> io::Result<()> {
    let Exit { socket, mut tally, by, largest } = exit;
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let mut terminate = Signals::new([Signal::Term])?;
        let socket = udp(socket)?;
        let (notify, enough) = oneshot::channel();
        let mut notify = Some(notify);
        executor
            .spawn(async move {
                let mut buffer = vec![0; largest];
                while let Ok((length, _peer)) = socket.recv_from(&mut buffer).await {
                    if tally.take(&buffer[..length]) == Flow::Done
                        && let Some(notify) = notify.take()
                    {
                        // The main future waits for it, or for the signal instead.
                        let _ = notify.send(());
                    }
                }
            })
            .detach();
        match by {
            ExitBy::Return => enough.await.map_err(io::Error::other),
            ExitBy::Signal => terminate.next().await.transpose().map(drop),
        }
    }))
}

fn block_on<T>(program: impl AsyncFnOnce(&LocalExecutor<'static>) -> T) -> T {
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(program(&executor)))
}

impl Tasks for LocalExecutor<'static> {
    type Handle<T: Send + 'static> = Task<T>;

    fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Task<T> {
        LocalExecutor::spawn(self, task)
    }

    fn output<T: Send + 'static>(joined: T) -> io::Result<T> {
        Ok(joined)
    }

    fn yield_now() -> impl Future<Output = ()> + Send + 'static {
        yield_now()
    }

    fn sleep(duration: Duration) -> impl Future + Unpin {
        Timer::after(duration)
    }
}
