//! An async runtime for Linux. Its datagram sockets lose nothing that the kernel has queued, also
//! when the program ends.
//!
//! An event loop that ends closes its sockets, and the kernel throws away what is still in their
//! queues. Ebbtide seals its sockets, reads them to the end and delivers what was queued. It runs on
//! io_uring, and on epoll where io_uring is refused.
//!
//! # A first program
//!
//! ```
//! use ebbtide::net::UdpSocket;
//!
//! fn main() -> std::io::Result<()> {
//!     ebbtide::run(async {
//!         let socket = UdpSocket::bind("127.0.0.1:0")?;
//!         let address = socket.local_addr()?;
//!         let counter = ebbtide::spawn(async move {
//!             let mut received = 0;
//!             while let Some(datagram) = socket.recv().await? {
//!                 received += datagram.len();
//!             }
//!             std::io::Result::Ok(received)
//!         });
//!         let client = UdpSocket::bind("127.0.0.1:0")?;
//!         client.send_to(b"hello", address).await?;
//!         client.send_to(b"world", address).await?;
//!
//!         let report = ebbtide::drain().await;
//!         assert_eq!((counter.await??, report.undelivered), (10, 0));
//!         Ok(())
//!     })
//! }
//! ```
//!
//! # Where to find what
//!
//! | I want to | |
//! |---|---|
//! | run a program | [`run`], or [`Runtime`] with [`Builder`] for other limits |
//! | receive and send datagrams | [`net::UdpSocket`], [`net::UnixDatagram`], and what both can do, [`net::DatagramSocket`] |
//! | start a task | [`spawn`]; [`spawn_blocking`] for calls that block |
//! | wait for a time | [`time::sleep`], [`time::timeout`], [`time::interval`] |
//! | end at SIGTERM without losing a datagram | [`signal::drain_on_terminate`] |
//! | end at another moment | [`drain`](fn@drain), or a socket's own [`drain`](net::DatagramSocket::drain) |
//! | say how the exit treats a socket | [`Exit`] |
//! | keep the exit open for work | [`hold_exit`] |
//! | know what was lost | [`DrainReport`], and [`net::DatagramSocket::stats`] for one socket |
//! | take over sockets from systemd | [`net::listen_fds`] |
//! | see what the loop does | [`Metrics`] |
//!
//! # What holds
//!
//! * A datagram belongs to its socket, not to the future that asks for it. A dropped
//!   [`recv`](net::DatagramSocket::recv) loses nothing, so it can be used in a `select`, with
//!   [`timeout`](time::timeout) and in a task that is aborted.
//! * After a drain, receivers get what was queued, in order, and then `None`.
//! * A [`Datagram`](net::Datagram) is the buffer that the kernel wrote; nothing is copied. If the
//!   program keeps all buffers, further datagrams wait in the kernel ([`Builder::buffers`]).
//! * A send is one system call. If there is no buffer space, it waits.
//! * What was lost is counted, and [`run`] returns it as a [`DrainError`].
//!
//! The page [The exit in detail] says what a drain waits for, and what each outcome means.
//!
//! # Threads
//!
//! A runtime is one thread: its tasks, sockets and handles stay on it and need not be `Send`. A
//! program may have several runtimes, each on its own thread, with sockets that share an address
//! ([`UdpOptions::reuse_port`](net::UdpOptions::reuse_port)).
//!
//! # io_uring or epoll
//!
//! [`DriverChoice::Auto`], the default, uses io_uring where the kernel has what it needs (Linux 6.1),
//! and epoll everywhere else. [`Runtime::driver`] returns which one it is, and why. The environment
//! variable `EBBTIDE_DRIVER` (`io_uring`, `epoll` or `auto`) overrides it.
//!
//! # Features
//!
//! * `tracing`: reports through the crate `tracing` which driver a runtime uses and how it was
//!   drained.
//!
//! [The exit in detail]: https://github.com/ebbtide/ebbtide/blob/main/docs/exit.md

pub use ebbtide_runtime::{
    Builder, Drain, DrainError, DrainOutcome, DrainReport, Draining, DriverChoice, Exit, ExitHold,
    JoinError, JoinHandle, LocalHandle, Metrics, Quiesced, RunningDriver, Runtime, StartCause,
    StartError, TaskRun, drain, drain_with, hold_exit, run, signal, spawn, spawn_blocking, task,
    time,
};

/// Datagram sockets. They mirror [`std::net`] and tokio where those have a name for it.
pub mod net {
    pub use ebbtide_net::*;
}

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
