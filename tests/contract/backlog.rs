//! Sockets of either transport with a backlog of numbered datagrams.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use ebbtide::net::{Address, Datagram, DatagramSocket};
use ebbtide::task::yield_now;
use ebbtide_testkit::descriptor::duplicate;
use ebbtide_testkit::socket::left_in_queue;
use ebbtide_testkit::{Ledger, Transport, numbered};
use socket2::Socket;

/// A backlog that fits into every queue.
pub(crate) const DATAGRAMS: u64 = 100;

/// A socket, its backlog, and what was delivered of it.
pub(crate) struct Queue<T> {
    /// The id of the sender, for [`numbered`].
    id: u32,
    pub(crate) sender: Socket,
    pub(crate) receiver: Rc<DatagramSocket<T>>,
    /// A second descriptor of the receiver's socket.
    pub(crate) watch: Socket,
    /// How many datagrams the kernel accepted from the sender.
    pub(crate) sent: u64,
    delivered: Rc<RefCell<Delivered>>,
}

#[derive(Default)]
struct Delivered {
    ledger: Ledger,
    /// True exactly when the receiver got `None`.
    has_ended: bool,
}

/// A [`Queue`] of either transport.
pub(crate) trait Backlog {
    /// Sends up to `count` datagrams, as many as fit.
    fn grow(&mut self, count: usize);

    fn spawn_receiver(&self);

    /// Fails unless what was queued was delivered once and in order, and nothing is left.
    fn check(&self, seed: u64);
}

impl<T: Transport> Queue<T> {
    pub(crate) fn open(id: u32) -> Self {
        let (sender, receiver) = T::pair();
        sender.set_nonblocking(true).unwrap();
        let watch = duplicate(&receiver);
        let receiver = Rc::new(T::open(receiver));
        Self { id, sender, receiver, watch, sent: 0, delivered: Rc::default() }
    }

    /// Receives everything from a drained socket. Nothing has to be waited for.
    pub(crate) fn take_all(&self) {
        let mut delivered = self.delivered.borrow_mut();
        while let Some(datagram) = self.receiver.try_recv().unwrap() {
            delivered.ledger.enter(&datagram);
        }
        delivered.has_ended = true;
    }
}

impl<T: Transport> Backlog for Queue<T> {
    fn grow(&mut self, count: usize) {
        for _ in 0..count {
            let len = 12 + self.sent as usize % 50;
            match self.sender.send(&numbered(self.id, self.sent, len)) {
                Ok(_) => self.sent += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn spawn_receiver(&self) {
        ebbtide::spawn(receive(Rc::clone(&self.receiver), Rc::clone(&self.delivered)));
    }

    fn check(&self, seed: u64) {
        let Delivered { ledger, has_ended } = &*self.delivered.borrow();
        let stats = self.receiver.stats();
        let run = format!("seed {seed}, {} sent, {ledger:?}, {stats:?}", self.sent);
        assert_eq!(ledger.received + stats.dropped_by_kernel, self.sent, "{run}");
        assert!(ledger.holes <= stats.dropped_by_kernel, "{run}");
        assert!(T::MAY_DROP || stats.dropped_by_kernel == 0, "{run}");
        assert!(has_ended, "the receiver did not get the end; {run}");
        assert_eq!(left_in_queue(&self.watch), 0, "{run}");
    }
}

async fn receive<A: Address>(socket: Rc<DatagramSocket<A>>, delivered: Rc<RefCell<Delivered>>) {
    while let Some(datagram) = socket.recv().await.unwrap() {
        delivered.borrow_mut().ledger.enter(&datagram);
    }
    delivered.borrow_mut().has_ended = true;
}

/// The next datagram, if it comes within a hundred turns.
pub(crate) async fn arrival<A: Address>(socket: &DatagramSocket<A>) -> Option<Datagram<A>> {
    for _ in 0..100 {
        match socket.try_recv() {
            Ok(datagram) => return datagram,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        yield_now().await;
    }
    None
}
