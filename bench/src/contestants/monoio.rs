//! monoio on io_uring, tested with 0.2.4.
//!
//! A task per socket, which passes its one buffer to each receive and gets it back: monoio's
//! interface has no other form. Its builder is asked for `DEFER_TASKRUN`, which costs less here
//! than its default.
//!
//! Several receives in flight on one socket were tried (2, 4, 8, 16, 32). Sixteen saved a seventh
//! of the time with a queue that is full beforehand, and cost 40 percent more with 100 sockets;
//! four cost a third more with a live sender, because every datagram wakes all that wait.
//!
//! It is built without its feature `sync`, which costs each datagram 5 to 10 percent. Without it,
//! no other thread can wake a task, so monoio takes no part in `wake`.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net;
use std::rc::Rc;
use std::time::Duration;

use futures_util::join;
use io_uring_06::IoUring;
use monoio::io::AsyncReadRent;
use monoio::net::udp::UdpSocket;
use monoio::net::unix::UnixDatagram;
use monoio::net::unix::UnixStream;
use monoio::task::JoinHandle;
use monoio::time::{TimeDriver, sleep};
use monoio::{IoUringDriver, Runtime, RuntimeBuilder};
use signal_hook::consts::SIGTERM;
use smol::future::yield_now;
use socket2::Socket;
use tokio::sync::oneshot;

use super::micro::{self, Tasks};
use super::{Contestant, Drain, Echo, Exit, ExitBy, Sink, drain_directly};
use crate::harness::tally::{Flow, Tally};

pub(super) const MONOIO: Contestant = Contestant {
    sink: Some(run_sink),
    // It has no GRO: this is what its users get from a sender of trains.
    sink_gro: Some(run_sink),
    unix_sink: Some(run_unix_sink),
    echo: Some(run_echo),
    echo_coalesced: Some(run_echo),
    drain: Some(run_drain),
    exit: Some(run_exit),
    spawn: Some(|micro| runtime()?.block_on(micro::spawn(&Monoio, micro))),
    yields: Some(|micro| runtime()?.block_on(micro::yields(&Monoio, micro))),
    timers: Some(|micro| runtime_with_timers()?.block_on(micro::timers(&Monoio, micro))),
    ..Contestant::new("monoio", "monoio on io_uring, one-shot receives")
};

fn builder() -> RuntimeBuilder<IoUringDriver> {
    let mut ring = IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring)
}

fn runtime() -> io::Result<Runtime<IoUringDriver>> {
    builder().build()
}

/// Timers have to be enabled, and cost time in each turn.
fn runtime_with_timers() -> io::Result<Runtime<TimeDriver<IoUringDriver>>> {
    builder().enable_timer().build()
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

/// It has no function that empties a socket. The receive in flight takes one datagram more (on an
/// empty queue, the program would have to send itself one); the rest is read directly.
fn run_drain(drain: Drain) -> io::Result<()> {
    let Drain { socket, mut tally, backlog, largest } = drain;
    let rest = drain_directly::second_descriptor(&socket)?;
    runtime()?.block_on(async {
        let socket = udp(socket)?;
        let stop = Rc::new(Cell::new(false));
        let stopping = Rc::clone(&stop);
        let receiver = monoio::spawn(async move {
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
        let mut tally = receiver.await?;
        drain_directly::read_to_the_end(&rest, &mut tally, largest)
    })?;
    drop(rest);
    backlog.finish();
    Ok(())
}

/// monoio can wait only for SIGINT. So the handler writes to a pipe, from which the program reads.
async fn terminate(pipe: net::UnixStream) -> io::Result<()> {
    let mut pipe = UnixStream::from_std(pipe)?;
    pipe.read(vec![0; 1]).await.0?;
    Ok(())
}

fn run_exit(exit: Exit) -> io::Result<()> {
    let Exit { socket, mut tally, by, largest } = exit;
    runtime()?.block_on(async {
        let (pipe, handler) = net::UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGTERM, handler)?;
        let socket = udp(socket)?;
        let (notify, enough) = oneshot::channel();
        let mut notify = Some(notify);
        drop(monoio::spawn(async move {
            let mut buffer = Vec::with_capacity(largest);
            loop {
                let (received, filled) = socket.recv_from(buffer).await;
                let Ok((length, _peer)) = received else { return };
                if tally.take(&filled[..length]) == Flow::Done
                    && let Some(notify) = notify.take()
                {
                    // The main future waits for it, or for the signal instead.
                    let _ = notify.send(());
                }
                buffer = filled;
            }
        }));
        match by {
            ExitBy::Return => enough.await.map_err(io::Error::other),
            ExitBy::Signal => terminate(pipe).await,
        }
    })
}

struct Monoio;

impl Tasks for Monoio {
    type Handle<T: Send + 'static> = JoinHandle<T>;

    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        monoio::spawn(task)
    }

    fn output<T: Send + 'static>(joined: T) -> io::Result<T> {
        Ok(joined)
    }

    fn yield_now() -> impl Future<Output = ()> + Send + 'static {
        yield_now()
    }

    fn sleep(duration: Duration) -> impl Future + Unpin {
        Box::pin(sleep(duration))
    }
}
