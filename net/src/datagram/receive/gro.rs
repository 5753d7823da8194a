//! Receive offload (UDP GRO, Linux 5.0): how it is switched on and off.
//!
//! A train that is still queued when the option goes off would be read as one long datagram
//! (docs/kernel.md, K-GRO-1). So the option goes off only while the queue is empty.

use std::io;
use std::time::{Duration, Instant};

use ebbtide_runtime::Wakes;
use ebbtide_runtime::limits::{DRAIN_READ_BATCH, MAX_DRAIN_ERRORS};

use super::machine::Read;
use super::{ReceiveHalf, read_now};
use crate::datagram::registered::RegisteredSocket;
use crate::sys::option::{flag, set_flag};
use crate::sys::socket::Family;

/// The payload length of the longest train: what fits into an IPv6 datagram.
const LONGEST_TRAIN: usize = 65_527;

/// How often GRO is switched off and on again because the queue is not empty. After that, the
/// socket refuses datagrams for a moment.
const MAX_TRIES: usize = 64;

/// How many messages all tries together read into memory. It exceeds what a receive buffer of the
/// default size holds.
const MAX_READ: usize = 4_096;

/// How long nothing must arrive before other CPUs are waited for. It is many times what a delivery
/// takes on another CPU that is not held up.
const QUIET: Duration = Duration::from_millis(1);

/// Whether GRO is on for a new socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GroWish {
    /// On if the buffers hold trains and the kernel supports them.
    #[default]
    IfPossible,
    On,
    Off,
    /// As it is on the socket that is taken over.
    AsItIs,
}

/// Whether the kernel may queue trains now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gro {
    On,
    Off,
}

impl ReceiveHalf {
    /// Whether the kernel may queue trains.
    pub(crate) fn gro(&self) -> bool {
        self.arrivals.borrow().gro()
    }

    /// Sets GRO on a socket whose receive has not started.
    pub(crate) fn wish_gro(&self, socket: &RegisteredSocket, wish: GroWish) -> io::Result<()> {
        match wish {
            GroWish::IfPossible => {
                if socket.registration.buffer_size() >= LONGEST_TRAIN {
                    // Linux before 5.0 has no trains.
                    let _ = self.turn_gro_on(socket);
                }
                Ok(())
            }
            GroWish::On => self.turn_gro_on(socket),
            GroWish::Off => Ok(()),
            GroWish::AsItIs if flag(socket.kernel()?, libc::SOL_UDP, libc::UDP_GRO)? => {
                self.turn_gro_on(socket)
            }
            GroWish::AsItIs => Ok(()),
        }
    }

    /// Switches GRO on or off while datagrams arrive.
    pub(crate) fn set_gro(&self, socket: &RegisteredSocket, on: bool) -> io::Result<()> {
        socket.check_open()?;
        match (self.gro(), on) {
            (true, true) | (false, false) => Ok(()),
            (false, true) => self.turn_gro_on(socket),
            (true, false) if self.is_left() => {
                self.without_receive(socket, || self.turn_gro_off_of_a_left_socket(socket))
            }
            (true, false) => self.without_receive(socket, || self.turn_gro_off(socket)),
        }
    }

    /// Switches GRO off for a user who reads by other means. The receive must not be in flight.
    pub(crate) fn end_gro(&self, socket: &RegisteredSocket) -> io::Result<()> {
        if self.gro() { self.turn_gro_off(socket) } else { Ok(()) }
    }

    fn turn_gro_on(&self, socket: &RegisteredSocket) -> io::Result<()> {
        let size = socket.registration.buffer_size();
        if socket.family() != Family::Internet || size < LONGEST_TRAIN {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "GRO needs buffers that hold the longest train: set Builder::buffer_size to at \
                     least {LONGEST_TRAIN} (it is {size}), or leave GRO off"
                ),
            ));
        }
        set_flag(socket.kernel()?, libc::SOL_UDP, libc::UDP_GRO, true)?;
        self.arrivals.borrow_mut().set_gro(true);
        Ok(())
    }

    /// Reads the queue to its end into the inbox, and switches GRO off while it is empty. The
    /// receive must not be in flight.
    fn turn_gro_off(&self, socket: &RegisteredSocket) -> io::Result<()> {
        // After the seal the queue only shrinks.
        let most = if self.has_seal() { usize::MAX } else { MAX_READ };
        let tried = self.try_to_turn_gro_off(socket, most)?;
        self.after_trying(socket, tried)
    }

    /// Switches GRO off if nothing is queued. What is queued belongs to others and is not read.
    fn turn_gro_off_of_a_left_socket(&self, socket: &RegisteredSocket) -> io::Result<()> {
        if self.turn_gro_off_for_good(socket)? == Gro::Off {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "GRO stays on: datagrams are queued, and they are left to others who hold the socket",
        ))
    }

    /// If trying did not switch GRO off, datagrams come too fast, or every read fails.
    fn after_trying(&self, socket: &RegisteredSocket, gro: Gro) -> io::Result<()> {
        match gro {
            Gro::Off => Ok(()),
            Gro::On if self.has_seal() => Err(not_read_to_the_end()),
            Gro::On => self.turn_gro_off_while_shut(socket),
        }
    }

    /// Refuses datagrams until those that were on their way have arrived. The kernel counts what it
    /// drops meanwhile.
    fn turn_gro_off_while_shut(&self, socket: &RegisteredSocket) -> io::Result<()> {
        let own = socket.socket.seal_by_filter()?;
        socket.registration.wait_for_deliveries();
        let turned = self.try_to_turn_gro_off(socket, usize::MAX);
        socket.socket.unseal(&own)?;
        match turned? {
            Gro::Off => Ok(()),
            Gro::On => Err(not_read_to_the_end()),
        }
    }

    /// Reads at most `left` messages.
    fn try_to_turn_gro_off(&self, socket: &RegisteredSocket, mut left: usize) -> io::Result<Gro> {
        for _ in 0..MAX_TRIES {
            if self.read_to_the_end(socket, &mut left) == Read::Empty
                && self.turn_gro_off_for_good(socket)? == Gro::Off
            {
                return Ok(Gro::Off);
            }
        }
        Ok(Gro::On)
    }

    /// Switches GRO off over an empty queue. Switches it on again if another CPU may have queued a
    /// train that it had accepted before.
    ///
    /// Waiting for other CPUs is useless while datagrams keep coming. So nothing must arrive for a
    /// moment first.
    fn turn_gro_off_for_good(&self, socket: &RegisteredSocket) -> io::Result<Gro> {
        let since = Instant::now();
        loop {
            if self.turn_gro_off_over_an_empty_queue(socket)? == Gro::On {
                return Ok(Gro::On);
            }
            if since.elapsed() >= QUIET {
                break;
            }
        }
        // However slow other CPUs are.
        socket.registration.wait_for_deliveries();
        self.turn_gro_off_over_an_empty_queue(socket)
    }

    /// Reads until the queue is empty, `left` messages have been read, or too many reads have
    /// failed.
    fn read_to_the_end(&self, socket: &RegisteredSocket, left: &mut usize) -> Read {
        let mut wakes = Wakes::default();
        let (mut last, mut errors) = (Read::Interrupted, 0);
        {
            let mut arrivals = self.arrivals.borrow_mut();
            while last != Read::Empty && *left > 0 && errors < MAX_DRAIN_ERRORS {
                last = read_now(socket, &mut arrivals, DRAIN_READ_BATCH, &mut wakes);
                errors = if last == Read::Error { errors + 1 } else { 0 };
                *left = left.saturating_sub(match last {
                    Read::Datagrams(count) => count,
                    Read::Error | Read::Interrupted | Read::Empty => 1,
                });
            }
        }
        wakes.run();
        last
    }

    /// Switches GRO off. What arrives from now on is a single datagram. If something arrived
    /// before, it may be a train: then GRO goes on again, so that it is read as one.
    fn turn_gro_off_over_an_empty_queue(&self, socket: &RegisteredSocket) -> io::Result<Gro> {
        let kernel = socket.kernel()?;
        set_flag(kernel, libc::SOL_UDP, libc::UDP_GRO, false)?;
        let gro = match self.peek(socket) {
            Peek::Empty => Gro::Off,
            Peek::Queued => {
                set_flag(kernel, libc::SOL_UDP, libc::UDP_GRO, true)?;
                Gro::On
            }
        };
        self.arrivals.borrow_mut().set_gro(gro == Gro::On);
        Ok(gro)
    }

    /// Peeks into the queue. Peeking clears a pending error of the socket, as receiving does. So
    /// the error goes to a receiver.
    fn peek(&self, socket: &RegisteredSocket) -> Peek {
        for _ in 0..MAX_TRIES {
            match socket.socket.peek() {
                Ok(_) => return Peek::Queued,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Peek::Empty,
                    io::ErrorKind::Interrupted => {}
                    _ => self.surface(socket, error),
                },
            }
        }
        Peek::Queued
    }
}

/// The result of peeking into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peek {
    Empty,
    /// Something is queued, or errors hide what is.
    Queued,
}

/// The error if a train may be queued behind what cannot be read.
fn not_read_to_the_end() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "GRO stays on: the queue of the socket cannot be read to its end, because every read fails",
    )
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use ebbtide_runtime::{Drain, Runtime};

    use super::*;
    use crate::UdpSocket;
    use crate::datagram::states::{MARK, refuse_marked};

    /// An ICMP answer comes between the last read and the moment at which GRO goes off. Fails when
    /// peeking into the queue swallows the error or takes it for a datagram.
    #[test]
    fn an_error_that_a_look_finds_goes_to_the_receiver() {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            // It is connected to another peer. So for this socket the port is closed, and nobody
            // else can bind it.
            let closed_to_us = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            closed_to_us.connect("127.0.0.1:9").unwrap();
            socket.connect(closed_to_us.local_addr().unwrap()).unwrap();
            let (half, on) = (&socket.endpoint().receive, &socket.endpoint().socket);
            half.halt(on);
            socket.try_send(b"anybody there?").unwrap();
            let turned = half.turn_gro_off_over_an_empty_queue(on).unwrap();
            assert_eq!(turned, Gro::Off, "nothing is queued");
            assert!(!half.gro());
            half.start(on);
            let error = socket.try_recv().expect_err("the port is closed");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        });
        runtime.shutdown(Drain::default());
    }

    /// Datagrams never stop coming. Fails when the filter of the program is lost, or the socket
    /// goes on refusing datagrams.
    #[test]
    fn a_filter_of_the_program_survives_the_moment_in_which_the_socket_is_shut() {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let bound = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            refuse_marked(&bound);
            let socket = UdpSocket::from_std(bound).unwrap();
            socket.set_gro(true).unwrap();
            let address = socket.local_addr().unwrap();
            socket.try_send_to(b"queued", address).unwrap();
            let (half, on) = (&socket.endpoint().receive, &socket.endpoint().socket);
            half.without_receive(on, || half.turn_gro_off_while_shut(on)).unwrap();
            assert!(!socket.gro());
            for payload in [&[MARK][..], b"accepted"] {
                socket.try_send_to(payload, address).unwrap();
            }
            for expected in [&b"queued"[..], b"accepted"] {
                assert_eq!(socket.recv().await.unwrap().expect("not drained")[..], *expected);
            }
        });
        runtime.shutdown(Drain::default());
    }

    /// The queue of a drained socket cannot be read. Fails when the seal is removed.
    #[test]
    fn a_drained_socket_that_cannot_be_read_keeps_its_seal() {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.drain().unwrap();
            let (half, on) = (&socket.endpoint().receive, &socket.endpoint().socket);
            let error = half.after_trying(on, Gro::On).expect_err("the queue cannot be read");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            socket.try_send_to(b"late", socket.local_addr().unwrap()).unwrap();
            assert!(socket.recv().await.unwrap().is_none());
            assert_eq!(socket.stats().refused, 1);
        });
        runtime.shutdown(Drain::default());
    }

    /// A train comes between the last read and the moment at which GRO goes off. Fails when it is
    /// later read as one datagram.
    #[test]
    fn gro_stays_on_over_a_queue_that_is_not_empty() {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let (half, on) = (&socket.endpoint().receive, &socket.endpoint().socket);
            assert!(half.gro(), "the default buffers hold a train");
            half.halt(on);
            let address = socket.local_addr().unwrap();
            socket.try_send_to(b"late", address).unwrap();
            let turned = half.turn_gro_off_over_an_empty_queue(on).unwrap();
            assert_eq!(turned, Gro::On, "the queue is not empty");
            assert!(half.gro());
            assert!(flag(on.kernel().unwrap(), libc::SOL_UDP, libc::UDP_GRO).unwrap());
            let mut left = 10;
            assert_eq!(half.read_to_the_end(on, &mut left), Read::Empty);
            assert_eq!(half.turn_gro_off_over_an_empty_queue(on).unwrap(), Gro::Off);
            assert!(!flag(on.kernel().unwrap(), libc::SOL_UDP, libc::UDP_GRO).unwrap());
        });
        runtime.shutdown(Drain::default());
    }
}
