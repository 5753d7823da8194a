//! monoio on io_uring, tested with 0.2.4.
//!
//! A task per socket, which gives its one buffer away with each receive and gets it back: monoio's
//! interface has no other form. `DEFER_TASKRUN` is asked of its builder, and costs less here than
//! what it asks for by itself.
//!
//! Several receives in flight on one socket were tried (2, 4, 8, 16, 32). Sixteen save a seventh of
//! the time with a queue that is full beforehand, and cost a third more with 100 sockets and several
//! times as much with one request at a time, because every datagram wakes all that wait.

use std::io;
use std::os::fd::OwnedFd;

use futures_util::join;
use io_uring_06::IoUring;
use monoio::net::udp::UdpSocket;
use monoio::net::unix::UnixDatagram;
use monoio::{IoUringDriver, Runtime, RuntimeBuilder};
use socket2::Socket;

use super::{Contestant, Echo, Sink};
use crate::harness::tally::{Flow, Tally};

pub(super) const MONOIO: Contestant = Contestant {
    sink: Some(run_sink),
    unix_sink: Some(run_unix_sink),
    echo: Some(run_echo),
    echo_coalesced: Some(run_echo),
    ..Contestant::new("monoio", "monoio on io_uring, one-shot receives")
};

fn runtime() -> io::Result<Runtime<IoUringDriver>> {
    let mut ring = IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring).build()
}

fn udp(socket: Socket) -> io::Result<UdpSocket> {
    // A receive on a non-blocking descriptor does not wait in the ring, but ends with EAGAIN.
    socket.set_nonblocking(false)?;
    UdpSocket::from_std(OwnedFd::from(socket).into())
}

fn run_sink(sink: Sink) -> io::Result<()> {
    let largest = sink.largest;
    runtime()?.block_on(async {
        for socket in sink.idle {
            let socket = udp(socket)?;
            drop(monoio::spawn(async move {
                let mut received = socket.recv_from(Vec::with_capacity(largest)).await;
                while received.0.is_ok() {
                    received = socket.recv_from(received.1).await;
                }
            }));
        }
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, tally) in sink.active {
            receivers.push(monoio::spawn(receive(udp(socket)?, tally, largest)));
        }
        for receiver in receivers {
            receiver.await?;
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

fn run_unix_sink(sink: Sink) -> io::Result<()> {
    let largest = sink.largest;
    runtime()?.block_on(async {
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, mut tally) in sink.active {
            socket.set_nonblocking(false)?;
            let socket = UnixDatagram::from_std(OwnedFd::from(socket).into())?;
            receivers.push(monoio::spawn(async move {
                let mut buffer = Vec::with_capacity(largest);
                loop {
                    let (received, filled) = socket.recv_from(buffer).await;
                    let (length, _peer) = received?;
                    if tally.take(&filled[..length]) == Flow::Done {
                        return io::Result::Ok(());
                    }
                    buffer = filled;
                }
            }));
        }
        for receiver in receivers {
            receiver.await?;
        }
        Ok(())
    })
}

/// Two buffers in turn, so that an answer and the next receive are submitted together.
fn run_echo(echo: Echo) -> io::Result<()> {
    let Echo { socket, mut tally, largest } = echo;
    runtime()?.block_on(async {
        let socket = udp(socket)?;
        let server = monoio::spawn(async move {
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
        server.await
    })
}
