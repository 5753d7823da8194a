//! tokio, with one thread and with several.
//!
//! A task per socket, spawned with `tokio::spawn`, each with a buffer of its own; `recv_from` and
//! `send_to`, which try first and wait for readiness only after `EAGAIN`.

use std::io;
use std::os::fd::OwnedFd;

use socket2::Socket;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::{Contestant, Echo, Sink};
use crate::harness::cpu;
use crate::harness::stopwatch::Clock;
use crate::harness::tally::{Flow, Tally};

pub(super) const CURRENT_THREAD: Contestant = Contestant {
    sink: Some(|sink| run_sink(&current_thread()?, sink)),
    unix_sink: Some(|sink| run_unix_sink(&current_thread()?, sink)),
    echo: Some(|echo| run_echo(&current_thread()?, echo)),
    echo_coalesced: Some(|echo| run_echo(&current_thread()?, echo)),
    ..Contestant::new("tokio", "tokio, current_thread")
};

pub(super) const MULTI_THREAD: Contestant = Contestant {
    clock: Clock::Process,
    sink: Some(|sink| run_sink(&multi_thread()?, sink)),
    unix_sink: Some(|sink| run_unix_sink(&multi_thread()?, sink)),
    echo: Some(|echo| run_echo(&multi_thread()?, echo)),
    echo_coalesced: Some(|echo| run_echo(&multi_thread()?, echo)),
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
