//! glommio, tested with 0.9.0.
//!
//! A task per socket with a buffer of its own. A receive tries the plain call first and goes by the
//! ring only when nothing is queued; a send as well. Its Unix datagram sockets cannot be made from a
//! descriptor, so that it has no Unix sink here.

use std::io;
use std::net;
use std::os::fd::OwnedFd;

use glommio::net::UdpSocket;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use socket2::Socket;

use super::{Contestant, Echo, Sink};
use crate::harness::tally::{Flow, Tally};

pub(super) const GLOMMIO: Contestant = Contestant {
    sink: Some(run_sink),
    echo: Some(run_echo),
    echo_coalesced: Some(run_echo),
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
            let idle = glommio::spawn_local(async move {
                let mut buffer = vec![0; largest];
                while socket.recv_from(&mut buffer).await.is_ok() {}
            });
            drop(idle.detach());
        }
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, tally) in sink.active {
            receivers.push(glommio::spawn_local(receive(udp(socket, largest)?, tally, largest)));
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
        let server = glommio::spawn_local(async move {
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
