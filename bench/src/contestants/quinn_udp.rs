//! quinn-udp on tokio's current_thread, tested with 0.6.3.
//!
//! recvmmsg(2) of quinn-udp's 32 messages, each of which may be a train. Trains are answered as
//! trains. It waits in the way quinn does. quinn-udp always turns GRO on, so it has no workload
//! without GRO. It also asks for ECN, the destination address and a time stamp of each message.

use std::array;
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Contestant, Drain, Echo, Exit, ExitBy, Sink};
use crate::harness::tally::{Flow, Tally};

pub(super) const QUINN_UDP: Contestant = Contestant {
    sink: Some(run_sink),
    sink_gro: Some(run_sink),
    echo: Some(run_echo),
    echo_coalesced: Some(run_echo),
    drain: Some(run_drain),
    exit: Some(run_exit),
    ..Contestant::new("quinn-udp", "quinn-udp on tokio, with GRO and GSO")
};

/// Bytes of the longest train.
const TRAIN: usize = 65_536;

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// A socket and what quinn-udp knows of it.
struct Endpoint {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// Where a batch is received.
struct Batch {
    memory: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Endpoint {
    fn new(socket: Socket) -> io::Result<Self> {
        let socket = UdpSocket::from_std(OwnedFd::from(socket).into())?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self { socket, state })
    }

    /// Receives what is queued, at most as many messages as a batch holds, or returns `WouldBlock`.
    fn try_receive(&self, batch: &mut Batch) -> io::Result<usize> {
        let mut chunks = batch.memory.chunks_exact_mut(TRAIN);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        self.socket.try_io(Interest::READABLE, || {
            self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut batch.metas)
        })
    }

    async fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        loop {
            let sent = self.socket.try_io(Interest::WRITABLE, || {
                self.state.try_send(UdpSockRef::from(&self.socket), transmit)
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.writable().await?;
                }
                sent => return sent,
            }
        }
    }
}

impl Batch {
    fn new() -> Self {
        Self { memory: vec![0; BATCH_SIZE * TRAIN], metas: [RecvMeta::default(); BATCH_SIZE] }
    }

    /// The first `count` messages: each one's metadata, and its bytes.
    fn messages(&self, count: usize) -> impl Iterator<Item = (&RecvMeta, &[u8])> {
        let trains = self.memory.chunks_exact(TRAIN);
        self.metas.iter().zip(trains).take(count).map(|(meta, train)| (meta, &train[..meta.len]))
    }
}

fn run_sink(sink: Sink) -> io::Result<()> {
    runtime()?.block_on(async {
        // One for all: it is in use only while nothing is awaited.
        let batch = Arc::new(Mutex::new(Batch::new()));
        for socket in sink.idle {
            let endpoint = Endpoint::new(socket)?;
            let batch = Arc::clone(&batch);
            drop(tokio::spawn(async move {
                while endpoint.socket.readable().await.is_ok() {
                    let mut batch = batch.lock();
                    drop(endpoint.try_receive(&mut batch));
                }
            }));
        }
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, tally) in sink.active {
            let endpoint = Endpoint::new(socket)?;
            receivers.push(tokio::spawn(receive(endpoint, tally, Arc::clone(&batch))));
        }
        join(receivers).await
    })
}

async fn receive(endpoint: Endpoint, mut tally: Tally, batch: Arc<Mutex<Batch>>) -> io::Result<()> {
    loop {
        endpoint.socket.readable().await?;
        let mut batch = batch.lock();
        let count = match endpoint.try_receive(&mut batch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            received => received?,
        };
        for (meta, train) in batch.messages(count) {
            if tally.take_train(train, meta.stride) == Flow::Done {
                return Ok(());
            }
        }
    }
}

async fn join(receivers: Vec<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    for receiver in receivers {
        receiver.await.map_err(io::Error::other)??;
    }
    Ok(())
}

fn run_echo(echo: Echo) -> io::Result<()> {
    let Echo { socket, mut tally, .. } = echo;
    runtime()?.block_on(async {
        let endpoint = Endpoint::new(socket)?;
        let server = tokio::spawn(async move {
            let mut batch = Batch::new();
            loop {
                endpoint.socket.readable().await?;
                let count = match endpoint.try_receive(&mut batch) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    received => received?,
                };
                let mut last = Flow::More;
                for (meta, train) in batch.messages(count) {
                    for request in train.chunks(meta.stride.max(1)) {
                        last = tally.take(request);
                    }
                    // As many segments as the kernel takes at once.
                    let most = meta.stride.max(1) * endpoint.state.max_gso_segments();
                    for contents in train.chunks(most) {
                        let transmit = Transmit {
                            destination: meta.addr,
                            ecn: None,
                            contents,
                            segment_size: Some(meta.stride),
                            src_ip: None,
                        };
                        endpoint.send(&transmit).await?;
                    }
                }
                if last == Flow::Done {
                    tally.finish();
                    return Ok(());
                }
            }
        });
        join(vec![server]).await
    })
}

/// The loop until `EAGAIN` that its users have to write.
fn run_drain(drain: Drain) -> io::Result<()> {
    let Drain { socket, mut tally, backlog, .. } = drain;
    let runtime = runtime()?;
    let endpoint = runtime.block_on(async { Endpoint::new(socket) })?;
    let mut batch = Batch::new();
    backlog.fill();
    runtime.block_on(async {
        // The driver has to notice that it is readable: `try_io` returns WouldBlock before.
        endpoint.socket.readable().await?;
        loop {
            match endpoint.try_receive(&mut batch) {
                Ok(count) => {
                    for (meta, train) in batch.messages(count) {
                        let _ = tally.take_train(train, meta.stride);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    })?;
    drop((endpoint, runtime));
    backlog.finish();
    Ok(())
}

fn run_exit(exit: Exit) -> io::Result<()> {
    let Exit { socket, mut tally, by, .. } = exit;
    runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let endpoint = Endpoint::new(socket)?;
        let (notify, enough) = oneshot::channel();
        let mut notify = Some(notify);
        drop(tokio::spawn(async move {
            let mut batch = Batch::new();
            while endpoint.socket.readable().await.is_ok() {
                let Ok(count) = endpoint.try_receive(&mut batch) else { continue };
                for (meta, train) in batch.messages(count) {
                    for datagram in train.chunks(meta.stride.max(1)) {
                        if tally.take(datagram) == Flow::Done
                            && let Some(notify) = notify.take()
                        {
                            // The main future waits for it, or for the signal instead.
                            let _ = notify.send(());
                        }
                    }
                }
            }
        }));
        match by {
            ExitBy::Return => enough.await.map_err(io::Error::other),
            ExitBy::Signal => terminate.recv().await.ok_or_else(|| io::Error::other("no signal")),
        }
    })
}
