//! Ebbtide on both drivers, in the form of its README: a task per socket, and a loop around `recv`.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use ebbtide::net::{Transmit, UdpSocket, UnixDatagram};
use ebbtide::task::yield_now;
use ebbtide::time::sleep;
use ebbtide::{DriverChoice, JoinError, JoinHandle, Runtime};
use socket2::Socket;

use super::micro::{self, Tasks};
use super::{Contestant, Drain, Echo, Exit, ExitBy, Gro, Sink};
use crate::harness::tally::{Flow, Tally};

pub(super) const EBBTIDE: Contestant = Contestant {
    sink: Some(|sink| run_sink(DriverChoice::IoUring, sink)),
    sink_gro: Some(|sink| run_sink_of_trains(DriverChoice::IoUring, sink)),
    unix_sink: Some(|sink| run_unix_sink(DriverChoice::IoUring, sink)),
    echo: Some(|echo| run_echo(DriverChoice::IoUring, echo)),
    echo_coalesced: Some(|echo| run_echo(DriverChoice::IoUring, echo)),
    drain: Some(|drain| run_drain(DriverChoice::IoUring, drain)),
    exit: Some(|exit| run_exit(DriverChoice::IoUring, exit)),
    spawn: Some(|micro| runtime(DriverChoice::IoUring)?.block_on(micro::spawn(&Ebbtide, micro))),
    yields: Some(|micro| runtime(DriverChoice::IoUring)?.block_on(micro::yields(&Ebbtide, micro))),
    timers: Some(|micro| runtime(DriverChoice::IoUring)?.block_on(micro::timers(&Ebbtide, micro))),
    run_task: Some(|task| {
        runtime(DriverChoice::IoUring)?.block_on(micro::run_task(&Ebbtide, task))
    }),
    ..Contestant::new("ebbtide", "Ebbtide on io_uring")
};

pub(super) const EBBTIDE_EPOLL: Contestant = Contestant {
    sink: Some(|sink| run_sink(DriverChoice::Epoll, sink)),
    sink_gro: Some(|sink| run_sink_of_trains(DriverChoice::Epoll, sink)),
    unix_sink: Some(|sink| run_unix_sink(DriverChoice::Epoll, sink)),
    echo: Some(|echo| run_echo(DriverChoice::Epoll, echo)),
    echo_coalesced: Some(|echo| run_echo(DriverChoice::Epoll, echo)),
    drain: Some(|drain| run_drain(DriverChoice::Epoll, drain)),
    exit: Some(|exit| run_exit(DriverChoice::Epoll, exit)),
    spawn: Some(|micro| runtime(DriverChoice::Epoll)?.block_on(micro::spawn(&Ebbtide, micro))),
    yields: Some(|micro| runtime(DriverChoice::Epoll)?.block_on(micro::yields(&Ebbtide, micro))),
    timers: Some(|micro| runtime(DriverChoice::Epoll)?.block_on(micro::timers(&Ebbtide, micro))),
    run_task: Some(|task| runtime(DriverChoice::Epoll)?.block_on(micro::run_task(&Ebbtide, task))),
    ..Contestant::new("ebbtide-epoll", "Ebbtide on epoll")
};

fn runtime(driver: DriverChoice) -> io::Result<Runtime> {
    Runtime::builder().driver(driver).build()
}

/// Takes the socket over. Binding a socket turns GRO on; taking one over leaves it unchanged. So it
/// is turned on here for the default.
fn udp(socket: Socket, gro: Gro) -> io::Result<UdpSocket> {
    let options = UdpSocket::options().gro(gro != Gro::Off);
    options.from_std(OwnedFd::from(socket).into())
}

fn run_sink(driver: DriverChoice, sink: Sink) -> io::Result<()> {
    runtime(driver)?.block_on(async {
        for socket in sink.idle {
            let socket = udp(socket, sink.gro)?;
            drop(ebbtide::spawn(async move { while let Ok(Some(_)) = socket.recv().await {} }));
        }
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, tally) in sink.active {
            let socket = udp(socket, sink.gro)?;
            receivers.push(ebbtide::spawn(receive(socket, tally)));
        }
        join(receivers).await
    })
}

async fn receive(socket: UdpSocket, mut tally: Tally) -> io::Result<()> {
    while let Some(datagram) = socket.recv().await? {
        if tally.take(&datagram) == Flow::Done {
            break;
        }
    }
    Ok(())
}

/// A train at a time, which is what the peers with GRO do.
fn run_sink_of_trains(driver: DriverChoice, sink: Sink) -> io::Result<()> {
    runtime(driver)?.block_on(async {
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, mut tally) in sink.active {
            let socket = udp(socket, sink.gro)?;
            receivers.push(ebbtide::spawn(async move {
                while let Some(train) = socket.recv_train().await? {
                    if tally.take_train(&train, train.stride()) == Flow::Done {
                        break;
                    }
                }
                Ok(())
            }));
        }
        join(receivers).await
    })
}

fn run_unix_sink(driver: DriverChoice, sink: Sink) -> io::Result<()> {
    runtime(driver)?.block_on(async {
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, mut tally) in sink.active {
            let socket = UnixDatagram::from_std(OwnedFd::from(socket).into())?;
            receivers.push(ebbtide::spawn(async move {
                while let Some(datagram) = socket.recv().await? {
                    if tally.take(&datagram) == Flow::Done {
                        break;
                    }
                }
                Ok(())
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

/// What the example `echo` does: answers what has arrived with one `send_batch`.
fn run_echo(driver: DriverChoice, echo: Echo) -> io::Result<()> {
    let Echo { socket, mut tally, .. } = echo;
    runtime(driver)?.block_on(async {
        let socket = udp(socket, Gro::AsDefault)?;
        let server = ebbtide::spawn(async move {
            let mut requests = Vec::new();
            let mut flow = Flow::More;
            while flow == Flow::More && socket.recv_batch(&mut requests, 64).await? > 0 {
                for request in &requests {
                    flow = tally.take(request);
                }
                let answers: Vec<Transmit<'_>> =
                    requests.iter().map(|request| Transmit::to(request, request.peer())).collect();
                socket.send_batch(&answers).await?;
                drop(answers);
                requests.clear();
            }
            tally.finish();
            Ok(())
        });
        join(vec![server]).await
    })
}

/// The runtime drains when it is shut down.
fn run_drain(driver: DriverChoice, drain: Drain) -> io::Result<()> {
    let Drain { socket, tally, backlog, .. } = drain;
    let runtime = runtime(driver)?;
    let receiver = runtime.block_on(async {
        let socket = udp(socket, Gro::AsDefault)?;
        let receiver = ebbtide::spawn(receive(socket, tally));
        // Until the receiver waits.
        sleep(Duration::from_millis(1)).await;
        io::Result::Ok(receiver)
    })?;
    backlog.fill();
    let report = runtime.shutdown(ebbtide::Drain::default());
    backlog.finish();
    if report.undelivered > 0 {
        return Err(io::Error::other(report.to_string()));
    }
    drop(receiver);
    Ok(())
}

fn run_exit(driver: DriverChoice, exit: Exit) -> io::Result<()> {
    let Exit { socket, mut tally, by, .. } = exit;
    let runtime = runtime(driver)?;
    runtime.block_on(async {
        let terminate = ebbtide::signal::terminate();
        let socket = udp(socket, Gro::AsDefault)?;
        let enough = Rc::new(Enough::default());
        let receiver = Rc::clone(&enough);
        drop(ebbtide::spawn(async move {
            while let Ok(Some(datagram)) = socket.recv().await {
                if tally.take(&datagram) == Flow::Done {
                    receiver.notify();
                }
            }
        }));
        match by {
            ExitBy::Return => enough.wait().await,
            ExitBy::Signal => {
                terminate.await?;
            }
        }
        io::Result::Ok(())
    })
    // The runtime is dropped here, which drains it.
}

/// Wakes the main future when its receiver has had enough.
#[derive(Default)]
struct Enough {
    had: std::cell::Cell<bool>,
    waker: std::cell::RefCell<Option<std::task::Waker>>,
}

impl Enough {
    fn notify(&self) {
        self.had.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            if self.had.get() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

struct Ebbtide;

impl Tasks for Ebbtide {
    type Handle<T: Send + 'static> = JoinHandle<T>;

    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        ebbtide::spawn(task)
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
