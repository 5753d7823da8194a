//! smol on one thread, tested with 2.0.2: its `LocalExecutor` under its `block_on`.
//!
//! A task per socket with a buffer of its own; `Async` tries first and waits for readiness only
//! after `EAGAIN`. smol starts a thread that waits for readiness when no `block_on` does, whose time
//! counts as well.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use smol::{Async, LocalExecutor};
use socket2::Socket;

use super::{Contestant, Echo, Sink};
use crate::harness::stopwatch::Clock;
use crate::harness::tally::{Flow, Tally};

pub(super) const SMOL: Contestant = Contestant {
    clock: Clock::Process,
    sink: Some(run_sink),
    unix_sink: Some(run_unix_sink),
    echo: Some(run_echo),
    echo_coalesced: Some(run_echo),
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
