//! Receive offload (UDP GRO, Linux 5.0): switching it on and, which is the hard part, off.
//!
//! Whether the kernel tells the length of a train's datagrams is decided when the train is *read*,
//! and whether it queues trains when they *arrive* (`udp_queue_rcv_skb`, `udp_recvmsg`). A train
//! that is still queued when the option goes off would be read as one long datagram. So the option
//! goes off only over an empty queue.

use std::io;
use std::time::{Duration, Instant};

use ebbtide_runtime::Wakes;
use ebbtide_runtime::limits::{DRAIN_READ_BATCH, MAX_DRAIN_ERRORS};

use super::endpoint::{Endpoint, Family};
use super::receive::Read;
use crate::option::{flag, set_flag};

/// Payload bytes of the longest train: what fits into an IPv6 datagram.
const LONGEST_TRAIN: usize = 65_527;

/// How often GRO is switched off and on again over a queue that is not empty, before the queue is
/// closed for the moment.
const MOST_TRIES: usize = 64;

/// Messages that all tries together read, into memory: more than a receive buffer of the default
/// size holds.
const MOST_READ: usize = 4_096;

/// How long nothing must arrive before other CPUs are waited for: many times what a delivery on one of
/// them takes, where it is not held up.
const QUIET: Duration = Duration::from_millis(1);

/// Whether a new socket is to receive trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GroWish {
    /// If the buffers hold trains and the kernel has them.
    #[default]
    IfPossible,
    On,
    Off,
    /// As the socket that is taken over has it.
    AsItIs,
}

/// Whether the kernel may queue trains now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gro {
    On,
    Off,
}

impl Endpoint {
    /// Carries out the wish on a socket that is not received from yet.
    pub(crate) fn wish_gro(&self, wish: GroWish) -> io::Result<()> {
        match wish {
            GroWish::IfPossible => {
                if self.registration.buffer_size() >= LONGEST_TRAIN {
                    // Before Linux 5.0 there are no trains to be had.
                    let _ = self.turn_gro_on();
                }
                Ok(())
            }
            GroWish::On => self.turn_gro_on(),
            GroWish::Off => Ok(()),
            GroWish::AsItIs if flag(self.socket()?, libc::SOL_UDP, libc::UDP_GRO)? => {
                self.turn_gro_on()
            }
            GroWish::AsItIs => Ok(()),
        }
    }

    /// Switches GRO on or off, while datagrams come.
    pub(crate) fn set_gro(&self, on: bool) -> io::Result<()> {
        self.check_open()?;
        match (self.gro(), on) {
            (true, true) | (false, false) => Ok(()),
            (false, true) => self.turn_gro_on(),
            (true, false) if self.is_left() => {
                self.without_receive(|| self.turn_gro_off_of_a_left_socket())
            }
            (true, false) => self.without_receive(|| self.turn_gro_off()),
        }
    }

    fn turn_gro_on(&self) -> io::Result<()> {
        let size = self.registration.buffer_size();
        if self.family() != Family::Internet || size < LONGEST_TRAIN {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "GRO needs buffers that hold the longest train: give \
                     Builder::buffer_size at least {LONGEST_TRAIN} (it is {size}), or leave GRO off"
                ),
            ));
        }
        set_flag(self.socket()?, libc::SOL_UDP, libc::UDP_GRO, true)?;
        self.held.borrow_mut().set_gro(true);
        Ok(())
    }

    /// Reads the queue to its end into the inbox and switches GRO off over an empty queue. The
    /// receive must not be in flight.
    pub(super) fn turn_gro_off(&self) -> io::Result<()> {
        // After the seal the queue only shrinks.
        let most = if self.has_seal() { usize::MAX } else { MOST_READ };
        let tried = self.try_to_turn_gro_off(most)?;
        self.after_trying(tried)
    }

    /// What is queued belongs to others, and is not read.
    fn turn_gro_off_of_a_left_socket(&self) -> io::Result<()> {
        if self.turn_gro_off_if_empty()? && self.is_quiet()? && self.has_settled()? {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "GRO stays on: datagrams are queued that are left to others who hold the socket",
        ))
    }

    /// Where trying has not led to it, datagrams come too fast, or reading the queue only fails.
    fn after_trying(&self, gro: Gro) -> io::Result<()> {
        match gro {
            Gro::Off => Ok(()),
            Gro::On if self.has_seal() => Err(not_read_to_the_end()),
            Gro::On => self.turn_gro_off_while_shut(),
        }
    }

    /// Shuts datagrams out until those that were on their way have arrived. The kernel counts what
    /// it drops meanwhile.
    fn turn_gro_off_while_shut(&self) -> io::Result<()> {
        let own = self.socket.seal_by_filter()?;
        self.registration.wait_for_deliveries();
        let turned = self.try_to_turn_gro_off(usize::MAX);
        self.socket.unseal(&own)?;
        match turned? {
            Gro::Off => Ok(()),
            Gro::On => Err(not_read_to_the_end()),
        }
    }

    /// Reads `left` messages at most.
    fn try_to_turn_gro_off(&self, mut left: usize) -> io::Result<Gro> {
        for _ in 0..MOST_TRIES {
            if self.read_to_the_end(&mut left) == Read::Empty
                && self.turn_gro_off_if_empty()?
                && self.is_quiet()?
                && self.has_settled()?
            {
                return Ok(Gro::Off);
            }
        }
        Ok(Gro::On)
    }

    /// Whether nothing was queued that other CPUs had accepted before GRO went off, however slow they
    /// are: otherwise it may be a train, and GRO goes on again.
    fn has_settled(&self) -> io::Result<bool> {
        self.registration.wait_for_deliveries();
        self.turn_gro_off_if_empty()
    }

    /// Whether nothing arrives for a moment, as it does not pay to wait for other CPUs where datagrams
    /// keep coming. A train that another CPU had accepted before GRO went off may come meanwhile: then
    /// GRO goes on again, so that it is read as one.
    fn is_quiet(&self) -> io::Result<bool> {
        let since = Instant::now();
        while since.elapsed() < QUIET {
            if !self.turn_gro_off_if_empty()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads until the queue is empty, no messages are `left` to be read, or reading only fails.
    fn read_to_the_end(&self, left: &mut usize) -> Read {
        let mut wakes = Wakes::default();
        let (mut last, mut errors) = (Read::Interrupted, 0);
        {
            let mut held = self.held.borrow_mut();
            while last != Read::Empty && *left > 0 && errors < MAX_DRAIN_ERRORS {
                last = self.read_now(&mut held, DRAIN_READ_BATCH, &mut wakes);
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

    /// What arrives from now on is single; if something had arrived before that, it may be a train,
    /// and GRO goes on again, so that it is read as one.
    fn turn_gro_off_if_empty(&self) -> io::Result<bool> {
        let socket = self.socket()?;
        set_flag(socket, libc::SOL_UDP, libc::UDP_GRO, false)?;
        let is_empty = self.is_queue_empty();
        if !is_empty {
            set_flag(socket, libc::SOL_UDP, libc::UDP_GRO, true)?;
        }
        self.held.borrow_mut().set_gro(!is_empty);
        Ok(is_empty)
    }

    /// Whether nothing is queued, or cannot be seen for errors. A look takes a pending error of the
    /// socket away, as a receive does: so it goes where that of a receive goes.
    fn is_queue_empty(&self) -> bool {
        for _ in 0..MOST_TRIES {
            match self.socket.peek() {
                Ok(_) => return false,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return true,
                    io::ErrorKind::Interrupted => {}
                    _ => self.surface(error),
                },
            }
        }
        false
    }
}

/// A train may be queued behind what cannot be read.
fn not_read_to_the_end() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "GRO stays on: the queue of the socket cannot be read to its end, because reading it only fails",
    )
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use ebbtide_runtime::{Drain, Runtime};

    use super::*;
    use crate::UdpSocket;
    use crate::datagram::states::{MARK, refuse_marked};

    /// As when an ICMP answer comes between the last read and the moment that GRO goes off. Fails
    /// when the look into the queue keeps the error to itself, or takes it for a datagram.
    #[test]
    fn an_error_that_a_look_finds_goes_to_the_receiver() {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            // It listens to somebody else: for us the port is closed, and for others it is taken.
            let closed_to_us = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            closed_to_us.connect("127.0.0.1:9").unwrap();
            socket.connect(closed_to_us.local_addr().unwrap()).unwrap();
            let endpoint = socket.endpoint();
            endpoint.halt();
            socket.try_send(b"anybody there?").unwrap();
            assert!(endpoint.turn_gro_off_if_empty().unwrap(), "nothing is queued");
            assert!(!endpoint.gro());
            endpoint.start();
            let error = socket.try_recv().expect_err("nobody is there");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        });
        runtime.shutdown(Drain::default());
    }

    /// As under a flood that never pauses. Fails when the filter of the program is lost, or the
    /// socket stays shut.
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
            let endpoint = socket.endpoint();
            endpoint.without_receive(|| endpoint.turn_gro_off_while_shut()).unwrap();
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

    /// As when the queue of a drained socket cannot be read. Fails when the seal is taken off.
    #[test]
    fn a_drained_socket_that_cannot_be_read_keeps_its_seal() {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.drain().unwrap();
            let endpoint = socket.endpoint();
            let error = endpoint.after_trying(Gro::On).expect_err("it could not be read");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            socket.try_send_to(b"late", socket.local_addr().unwrap()).unwrap();
            assert!(socket.recv().await.unwrap().is_none());
            assert_eq!(socket.stats().refused, 1);
        });
        runtime.shutdown(Drain::default());
    }

    /// As when a train comes between the last read and the moment that GRO goes off. Fails when it
    /// is left to be read as one datagram.
    #[test]
    fn gro_stays_on_over_a_queue_that_is_not_empty() {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let endpoint = socket.endpoint();
            assert!(endpoint.gro(), "the default buffers hold a train");
            endpoint.halt();
            let address = socket.local_addr().unwrap();
            socket.try_send_to(b"late", address).unwrap();
            assert!(!endpoint.turn_gro_off_if_empty().unwrap(), "it was not empty");
            assert!(endpoint.gro());
            assert!(flag(endpoint.socket().unwrap(), libc::SOL_UDP, libc::UDP_GRO).unwrap());
            let mut left = 10;
            assert_eq!(endpoint.read_to_the_end(&mut left), Read::Empty);
            assert!(endpoint.turn_gro_off_if_empty().unwrap());
            assert!(!flag(endpoint.socket().unwrap(), libc::SOL_UDP, libc::UDP_GRO).unwrap());
        });
        runtime.shutdown(Drain::default());
    }
}
