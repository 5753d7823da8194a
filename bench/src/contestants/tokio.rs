//! tokio, with one thread and with several.
//!
//! A task per socket, spawned with `tokio::spawn`, each with a buffer of its own; `recv_from` and
//! `send_to`, which try first and wait for readiness only after `EAGAIN`.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::Socket;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle, yield_now};
use tokio::time::sleep;

use super::micro::{self, Tasks};
use super::{Contestant, Drain, Echo, Exit, ExitBy, Sink};
use crate::harness::cpu;
use crate::harness::stopwatch::Clock;
use crate::harness::tally::{Flow, Tally};

pub(super) const CURRENT_THREAD: Contestant = Contestant {
    sink: Some(|sink| run_sink(&current_thread()?, sink)),
    unix_sink: Some(|sink| run_unix_sink(&current_thread()?, sink)),
    echo: Some(|echo| run_echo(&current_thread()?, echo)),
    echo_coalesced: Some(|echo| run_echo(&current_thread()?, echo)),
    // It has no GRO: this is what its users get from a sender of trains.
    sink_gro: Some(|sink| run_sink(&current_thread()?, sink)),
    drain: Some(|drain| run_drain(current_thread()?, drain)),
    exit: Some(|exit| run_exit(&current_thread()?, exit)),
    spawn: Some(|micro| current_thread()?.block_on(micro::spawn(&Tokio, micro))),
    yields: Some(|micro| current_thread()?.block_on(micro::yields(&Tokio, micro))),
    timers: Some(|micro| current_thread()?.block_on(micro::timers(&Tokio, micro))),
    run_task: Some(|task| current_thread()?.block_on(micro::run_task(&Tokio, task))),
    ..Contestant::new("tokio", "tokio, current_thread")
};

pub(super) const MULTI_THREAD: Contestant = Contestant {
    clock: Clock::Process,
    sink: Some(|sink| run_sink(&multi_thread()?, sink)),
    unix_sink: Some(|sink| run_unix_sink(&multi_thread()?, sink)),
    echo: Some(|echo| run_echo(&multi_thread()?, echo)),
    echo_coalesced: Some(|echo| run_echo(&multi_thread()?, echo)),
    drain: Some(|drain| run_drain(multi_thread()?, drain)),
    exit: Some(|exit| run_exit(&multi_thread()?, exit)),
    spawn: Some(|micro| multi_thread()?.block_on(micro::spawn(&Tokio, micro))),
    yields: Some(|micro| multi_thread()?.block_on(micro::yields(&Tokio, micro))),
    timers: Some(|micro| multi_thread()?.block_on(micro::timers(&Tokio, micro))),
    run_task: Some(|task| multi_thread()?.block_on(micro::run_task(&Tokio, task))),
    ..Contestant::new(
        "tokio-multi",
        "tokio, multi_thread with two workers, which may use both CPUs",
    )
};

fn current_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn multi_thread() -> io::Result<Runtime> {
    cpu::unpin();
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

fn udp(socket: Socket) -> io::Result<UdpSocket> {
    UdpSocket::from_std(OwnedFd::from(socket).into())
}

fn run_sink(runtime: &Runtime, sink: Sink) -> io::Result<()> {
    let largest = sink.largest;
    runtime.block_on(async {
        for socket in sink.idle {
            let socket = udp(socket)?;
            drop(tokio::spawn(async move {
                let mut buffer = vec![0; largest];
                while socket.recv_from(&mut buffer).await.is_ok() {}
            }));
        }
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, tally) in sink.active {
            receivers.push(tokio::spawn(receive(udp(socket)?, tally, largest)));
        }
        join(receivers).await
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

fn run_unix_sink(runtime: &Runtime, sink: Sink) -> io::Result<()> {
    let largest = sink.largest;
    runtime.block_on(async {
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, mut tally) in sink.active {
            let socket = UnixDatagram::from_std(OwnedFd::from(socket).into())?;
            receivers.push(tokio::spawn(async move {
                let mut buffer = vec![0; largest];
                loop {
                    let (length, _peer) = socket.recv_from(&mut buffer).await?;
                    if tally.take(&buffer[..length]) == Flow::Done {
                        return Ok(());
                    }
                }
            }));
        }
        join(receivers).await
    })
}

async fn join(receivers: Vec<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    for receiver in receivers {
        receiver.await.map_err(io::Error::other)??;
    }
    Ok(())
}

fn run_echo(runtime: &Runtime, echo: Echo) -> io::Result<()> {
    let Echo { socket, mut tally, largest } = echo;
    runtime.block_on(async {
        let socket = udp(socket)?;
        let server = tokio::spawn(async move {
            let mut buffer = vec![0; largest];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).await?;
                let flow = tally.take(&buffer[..length]);
                socket.send_to(&buffer[..length], peer).await?;
                if flow == Flow::Done {
                    tally.finish();
                    return Ok(());
                }
            }
        });
        join(vec![server]).await
    })
}

/// It has no function that empties a socket: this is the loop until `EAGAIN` that its users have to
/// write.
fn run_drain(runtime: Runtime, drain: Drain) -> io::Result<()> {
    let Drain { socket, mut tally, backlog, largest } = drain;
    let socket = runtime.block_on(async { udp(socket) })?;
    backlog.fill();
    runtime.block_on(async {
        let mut buffer = vec![0; largest];
        // The driver has to notice that it is readable: `try_recv_from` returns WouldBlock before.
        socket.readable().await?;
        loop {
            match socket.try_recv_from(&mut buffer) {
                // The socket reports whether there is more.
                Ok((length, _peer)) => drop(tally.take(&buffer[..length])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    })?;
    drop(socket);
    drop(runtime);
    backlog.finish();
    Ok(())
}

fn run_exit(runtime: &Runtime, exit: Exit) -> io::Result<()> {
    let Exit { socket, mut tally, by, largest } = exit;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let socket = udp(socket)?;
        let (notify, enough) = oneshot::channel();
        drop(tokio::spawn(async move {
            let mut notify = Some(notify);
            let mut buffer = vec![0; largest];
            while let Ok((length, _peer)) = socket.recv_from(&mut buffer).await {
                if tally.take(&buffer[..length]) == Flow::Done
                    && let Some(notify) = notify.take()
                {
                    // The main future waits for it, or for the signal instead.
                    let _ = notify.send(());
                }
            }
        }));
        match by {
            ExitBy::Return => enough.await.map_err(io::Error::other),
            ExitBy::Signal => terminate.recv().await.ok_or_else(|| io::Error::other("no signal")),
        }
    })
}

struct Tokio;

impl Tasks for Tokio {
    type Handle<T: Send + 'static> = JoinHandle<T>;

    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        tokio::spawn(task)
    }

    fn output<T: Send + 'static>(joined: Result<T, JoinError>) -> io::Result<T> {
        joined.map_err(io::Error::other)
    }

    fn yield_now() -> impl Future<Output = ()> + Send + 'static {
        yield_now()
    }

    fn sleep(duration: Duration) -> impl Future + Unpin {
        Box::pin(sleep(duration))
    }
}
