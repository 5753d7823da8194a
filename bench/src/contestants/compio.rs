//! compio on io_uring with `DEFER_TASKRUN`, one-shot and multishot, tested with 0.19.2.
//!
//! One-shot: a task per socket, which passes its one buffer to each receive and gets it back.
//! Multishot: the stream of `recv_from_multi`, whose items lie in buffers of compio's pool and go
//! back to it when they are dropped. It cannot be drained: the cancel of a multishot with a full
//! queue fails, compio ignores that, and the stream ends neither then nor when the queue is empty.
//! compio has no Unix datagram sockets.

use std::cell::Cell;
use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use compio::BufResult;
use compio::driver::ProactorBuilder;
use compio::driver::op::RecvFromMultiResult;
use compio::net::UdpSocket;
use compio::runtime::{JoinError, JoinHandle, Runtime, spawn, time};
use compio::signal::unix::signal;
use futures_util::future::join_all;
use futures_util::{StreamExt, join};
use smol::future::yield_now;
use socket2::Socket;
use tokio::sync::oneshot;

use super::micro::{self, Tasks};
use super::{Contestant, Drain, Echo, Exit, ExitBy, Sink, drain_directly};
use crate::harness::tally::{Flow, Tally};

pub(super) const COMPIO: Contestant = Contestant {
    sink: Some(run_sink),
    // It has no GRO: this is what its users get from a sender of trains.
    sink_gro: Some(run_sink),
    echo: Some(run_echo),
    echo_coalesced: Some(run_echo),
    drain: Some(run_drain),
    exit: Some(run_exit),
    spawn: Some(|micro| runtime(0)?.block_on(micro::spawn(&Compio, micro))),
    yields: Some(|micro| runtime(0)?.block_on(micro::yields(&Compio, micro))),
    timers: Some(|micro| runtime(0)?.block_on(micro::timers(&Compio, micro))),
    run_task: Some(|task| runtime(0)?.block_on(micro::run_task(&Compio, task))),
    ..Contestant::new("compio", "compio on io_uring, one-shot receives")
};

pub(super) const COMPIO_MULTI: Contestant = Contestant {
    sink: Some(run_multi_sink),
    sink_gro: Some(run_multi_sink),
    echo: Some(run_multi_echo),
    echo_coalesced: Some(run_multi_echo),
    exit: Some(run_multi_exit),
    ..Contestant::new("compio-multi", "compio on io_uring, multishot receives")
};

/// Buffers of the pool; its default of eight would end a multishot after eight datagrams.
const BUFFERS: NonZero<u16> = NonZero::new(256).expect("not zero");

/// What the kernel puts in front of a datagram: its header, and space for an address of any family.
const IN_FRONT: usize = 16 + size_of::<libc::sockaddr_storage>();

/// Answers that are submitted together.
const BATCH: usize = 30;

fn runtime(largest: usize) -> io::Result<Runtime> {
    let mut driver = ProactorBuilder::new();
    driver
        .single_issuer(true)
        .defer_taskrun(true)
        .buffer_pool_size(BUFFERS)
        .buffer_pool_buffer_len(IN_FRONT + largest);
    Runtime::builder().with_proactor(driver).build()
}

fn udp(socket: Socket) -> io::Result<UdpSocket> {
    // A receive on a non-blocking descriptor does not wait in the ring, but ends with EAGAIN.
    socket.set_nonblocking(false)?;
    UdpSocket::from_std(OwnedFd::from(socket).into())
}

async fn join_receivers(receivers: Vec<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    for receiver in receivers {
        receiver.await.map_err(|_panic| io::Error::other("a receiver panicked"))??;
    }
    Ok(())
}

fn run_sink(sink: Sink) -> io::Result<()> {
    let largest = sink.largest;
    runtime(largest)?.block_on(async {
        for socket in sink.idle {
            let socket = udp(socket)?;
            let idle = spawn(async move {
                let mut received = socket.recv_from(Vec::with_capacity(largest)).await;
                while received.0.is_ok() {
                    received = socket.recv_from(received.1).await;
                }
            });
            idle.detach();
        }
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, tally) in sink.active {
            receivers.push(spawn(receive(udp(socket)?, tally, largest)));
        }
        join_receivers(receivers).await
    })
}

async fn receive(socket: UdpSocket, mut tally: Tally, largest: usize) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(largest);
    loop {
        let BufResult(received, filled) = socket.recv_from(buffer).await;
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
    runtime(largest)?.block_on(async {
        let socket = udp(socket)?;
        let server = spawn(async move {
            let mut spare = Vec::with_capacity(largest);
            let mut received = socket.recv_from(Vec::with_capacity(largest)).await;
            loop {
                let (length, peer) = received.0?;
                let mut request = received.1;
                request.truncate(length);
                if tally.take(&request) == Flow::Done {
                    socket.send_to(request, peer).await.0?;
                    tally.finish();
                    return Ok(());
                }
                let (sent, next) = join!(socket.send_to(request, peer), socket.recv_from(spare));
                sent.0?;
                (spare, received) = (sent.1, next);
            }
        });
        join_receivers(vec![server]).await
    })
}

/// Whether an error of a stream only says that the pool was empty, which compio reports by this
/// kind. The next poll arms the receive again.
fn is_starved(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

fn run_multi_sink(sink: Sink) -> io::Result<()> {
    runtime(sink.largest)?.block_on(async {
        for socket in sink.idle {
            let socket = udp(socket)?;
            let idle = spawn(async move {
                let mut datagrams = pin!(socket.recv_from_multi());
                while datagrams.next().await.is_some_and(|datagram| datagram.is_ok()) {}
            });
            idle.detach();
        }
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, tally) in sink.active {
            receivers.push(spawn(receive_multi(udp(socket)?, tally)));
        }
        join_receivers(receivers).await
    })
}

async fn receive_multi(socket: UdpSocket, mut tally: Tally) -> io::Result<()> {
    let mut datagrams = pin!(socket.recv_from_multi());
    while let Some(datagram) = datagrams.next().await {
        match datagram {
            Ok(datagram) => {
                if tally.take(datagram.data()) == Flow::Done {
                    return Ok(());
                }
            }
            Err(error) if is_starved(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the stream has ended"))
}

/// Answers all requests that are there in one submission, from buffers that are used again.
fn run_multi_echo(echo: Echo) -> io::Result<()> {
    let Echo { socket, mut tally, largest } = echo;
    runtime(largest)?.block_on(async {
        let socket = udp(socket)?;
        let server = spawn(async move {
            let mut requests = pin!(socket.recv_from_multi().ready_chunks(BATCH));
            let mut buffers: Vec<Vec<u8>> = Vec::with_capacity(BATCH);
            while let Some(batch) = requests.next().await {
                let mut last = Flow::More;
                let mut answers = Vec::with_capacity(BATCH);
                for request in batch {
                    let request: RecvFromMultiResult = match request {
                        Ok(request) => request,
                        Err(error) if is_starved(&error) => continue,
                        Err(error) => return Err(error),
                    };
                    last = tally.take(request.data());
                    let peer = request.addr().and_then(|address| address.as_socket());
                    let peer = peer.ok_or_else(|| io::Error::other("a request without a peer"))?;
                    let mut buffer = buffers.pop().unwrap_or_default();
                    buffer.clear();
                    buffer.extend_from_slice(request.data());
                    answers.push(socket.send_to(buffer, peer));
                }
                for BufResult(sent, buffer) in join_all(answers).await {
                    sent?;
                    buffers.push(buffer);
                }
                if last == Flow::Done {
                    tally.finish();
                    return Ok(());
                }
            }
            Err(io::Error::other("the stream has ended"))
        });
        join_receivers(vec![server]).await
    })
}

/// It has no function that empties a socket. The receive in flight takes one datagram more (on an
/// empty queue, the program would have to send itself one); the rest is read directly.
fn run_drain(drain: Drain) -> io::Result<()> {
    let Drain { socket, mut tally, backlog, largest } = drain;
    let rest = drain_directly::second_descriptor(&socket)?;
    runtime(largest)?.block_on(async {
        let socket = udp(socket)?;
        let stop = Rc::new(Cell::new(false));
        let stopping = Rc::clone(&stop);
        let receiver = spawn(async move {
            let mut buffer = Vec::with_capacity(largest);
            loop {
                let BufResult(received, filled) = socket.recv_from(buffer).await;
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
        let mut tally = receiver.await.map_err(|_panic| io::Error::other("a task panicked"))??;
        drain_directly::read_to_the_end(&rest, &mut tally, largest)
    })?;
    drop(rest);
    backlog.finish();
    Ok(())
}

fn run_exit(exit: Exit) -> io::Result<()> {
    let Exit { socket, mut tally, by, largest } = exit;
    runtime(largest)?.block_on(async {
        let socket = udp(socket)?;
        let (notify, enough) = oneshot::channel();
        let mut notify = Some(notify);
        spawn(async move {
            let mut buffer = Vec::with_capacity(largest);
            loop {
                let BufResult(received, filled) = socket.recv_from(buffer).await;
                let Ok((length, _peer)) = received else { return };
                if tally.take(&filled[..length]) == Flow::Done
                    && let Some(notify) = notify.take()
                {
                    // The main future waits for it, or for the signal instead.
                    let _ = notify.send(());
                }
                buffer = filled;
            }
        })
        .detach();
        match by {
            ExitBy::Return => enough.await.map_err(io::Error::other),
            ExitBy::Signal => signal(libc::SIGTERM).await,
        }
    })
}

fn run_multi_exit(exit: Exit) -> io::Result<()> {
    let Exit { socket, mut tally, by, largest } = exit;
    runtime(largest)?.block_on(async {
        let socket = udp(socket)?;
        let (notify, enough) = oneshot::channel();
        let mut notify = Some(notify);
        spawn(async move {
            let mut datagrams = pin!(socket.recv_from_multi());
            while let Some(datagram) = datagrams.next().await {
                let datagram = match datagram {
                    Ok(datagram) => datagram,
                    Err(error) if is_starved(&error) => continue,
                    Err(_) => return,
                };
                if tally.take(datagram.data()) == Flow::Done
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
            ExitBy::Signal => signal(libc::SIGTERM).await,
        }
    })
}

struct Compio;

impl Tasks for Compio {
    type Handle<T: Send + 'static> = JoinHandle<T>;

    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        spawn(task)
    }

    fn output<T: Send + 'static>(joined: Result<T, JoinError>) -> io::Result<T> {
        joined.map_err(|_panic| io::Error::other("a task panicked"))
    }

    fn yield_now() -> impl Future<Output = ()> + Send + 'static {
        yield_now()
    }

    fn sleep(duration: Duration) -> impl Future + Unpin {
        Box::pin(time::sleep(duration))
    }
}
