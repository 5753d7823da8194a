//! tokio-uring, tested with 0.5.0.
//!
//! A task per socket, which gives its one buffer away with each receive and gets it back: its
//! interface has no other form. It has no Unix datagram sockets. `DEFER_TASKRUN` is out of the
//! question, because it waits for its ring with epoll, and `COOP_TASKRUN` is the next best.

use std::io;
use std::os::fd::OwnedFd;

use futures_util::join;
use socket2::Socket;
use tokio_uring::net::UdpSocket;

use super::{Contestant, Echo, Sink};
use crate::harness::tally::{Flow, Tally};

pub(super) const TOKIO_URING: Contestant = Contestant {
    sink: Some(run_sink),
    echo: Some(run_echo),
    echo_coalesced: Some(run_echo),
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
