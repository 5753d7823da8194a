//! Ebbtide on both drivers, as its README teaches: a task per socket, and a loop around `recv`.

use std::io;
use std::os::fd::OwnedFd;

use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide::{Driver, JoinHandle, Runtime};
use socket2::Socket;

use super::{Contestant, Echo, Sink};
use crate::harness::tally::{Flow, Tally};

pub(super) const EBBTIDE: Contestant = Contestant {
    sink: Some(|sink| run_sink(Driver::IoUring, sink)),
    unix_sink: Some(|sink| run_unix_sink(Driver::IoUring, sink)),
    echo: Some(|echo| run_echo(Driver::IoUring, echo)),
    echo_coalesced: Some(|echo| run_echo(Driver::IoUring, echo)),
    ..Contestant::new("ebbtide", "Ebbtide on io_uring")
};

pub(super) const EBBTIDE_EPOLL: Contestant = Contestant {
    sink: Some(|sink| run_sink(Driver::Epoll, sink)),
    unix_sink: Some(|sink| run_unix_sink(Driver::Epoll, sink)),
    echo: Some(|echo| run_echo(Driver::Epoll, echo)),
    echo_coalesced: Some(|echo| run_echo(Driver::Epoll, echo)),
    ..Contestant::new("ebbtide-epoll", "Ebbtide on epoll")
};

fn runtime(driver: Driver) -> io::Result<Runtime> {
    Runtime::builder().driver(driver).build()
}

/// The socket in the form that every runtime can take over.
fn std_udp(socket: Socket) -> std::net::UdpSocket {
    OwnedFd::from(socket).into()
}

fn run_sink(driver: Driver, sink: Sink) -> io::Result<()> {
    runtime(driver)?.block_on(async {
        for socket in sink.idle {
            let socket = UdpSocket::from_std(std_udp(socket))?;
            drop(ebbtide::spawn(async move { while let Ok(Some(_)) = socket.recv().await {} }));
        }
        let mut receivers = Vec::with_capacity(sink.active.len());
        for (socket, tally) in sink.active {
            let socket = UdpSocket::from_std(std_udp(socket))?;
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

fn run_unix_sink(driver: Driver, sink: Sink) -> io::Result<()> {
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

fn run_echo(driver: Driver, echo: Echo) -> io::Result<()> {
    let Echo { socket, mut tally, .. } = echo;
    runtime(driver)?.block_on(async {
        let socket = UdpSocket::from_std(std_udp(socket))?;
        let server = ebbtide::spawn(async move {
            while let Some(request) = socket.recv().await? {
                let flow = tally.take(&request);
                socket.send_to(&request, request.peer()).await?;
                if flow == Flow::Done {
                    break;
                }
            }
            tally.finish();
            Ok(())
        });
        join(vec![server]).await
    })
}
