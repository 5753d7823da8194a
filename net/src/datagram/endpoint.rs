//! [`Endpoint`]: what all datagram sockets share. It owns a socket and its two halves, and opens,
//! drains and closes them.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};

use ebbtide_runtime::driver::{Armed, Batch, Layout, Sink, Verdict};
use ebbtide_runtime::{
    Again, AtTurnEnd, DrainKey, Drainable, Exit, Pass, ReadProgress, Receivers, Registration,
    SocketStats, Wakes,
};

use super::receive::{ReceiveHalf, ReceivedMessage};
use super::registered::{Life, RegisteredSocket};
use super::send::{SendHalf, Sends};
use crate::sys::socket::{Family, Socket};

pub(crate) struct Endpoint {
    pub(super) socket: Rc<RegisteredSocket>,
    pub(super) receive: ReceiveHalf,
    pub(super) send: SendHalf,
    /// What a drain does to the socket.
    exit: Cell<Exit>,
    /// Set once, right after the endpoint was made.
    drainable: OnceCell<DrainKey>,
}

impl Endpoint {
    /// Takes over a bound or connected socket and starts to receive on it. With [`Exit::Leave`], it
    /// starts when somebody first asks for a datagram. `prepare` is called before that, with the
    /// endpoint.
    pub(crate) fn open(
        socket: Socket,
        family: Family,
        layout: Layout,
        prepare: impl FnOnce(&Self) -> io::Result<()>,
    ) -> io::Result<Rc<Self>> {
        let registration = Registration::current()?;
        let endpoint = Rc::new_cyclic(|this: &Weak<Self>| {
            let socket =
                RegisteredSocket::new(registration, socket, family, Weak::<Self>::clone(this));
            Self {
                receive: ReceiveHalf::new(&socket, layout),
                socket: Rc::new(socket),
                send: SendHalf::default(),
                exit: Cell::new(Exit::Seal),
                drainable: OnceCell::new(),
            }
        });
        prepare(&endpoint)?;
        let registration = &endpoint.socket.registration;
        let drainable = registration.open_drainable(Rc::<Self>::clone(&endpoint))?;
        endpoint.drainable.set(drainable).expect("set once");
        endpoint.receive.register(registration.add_sink(Rc::<Self>::clone(&endpoint)));
        match endpoint.exit.get() {
            Exit::Leave => endpoint.receive.start_when_asked(),
            _ => endpoint.receive.start(&endpoint.socket),
        }
        Ok(endpoint)
    }

    /// What a send needs besides its own half.
    #[inline]
    pub(super) fn sends(&self) -> Sends<'_> {
        Sends { socket: &self.socket, receive: &self.receive }
    }

    /// Sets what a drain does to the socket.
    pub(crate) fn set_exit(&self, exit: Exit) -> io::Result<()> {
        self.socket.check_open()?;
        if self.receive.is_sealed() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the exit of a socket can only be set before it is drained",
            ));
        }
        self.exit.set(exit);
        match exit {
            _ if !self.receive.is_registered() => {}
            // What is taken from the queue before anybody asks is also taken from others who hold
            // the socket.
            Exit::Leave if self.receive.nobody_has_come() => {
                self.receive.halt(&self.socket);
                self.receive.start_when_asked();
            }
            Exit::Leave => {}
            _ => self.receive.start_if_unasked(&self.socket),
        }
        Ok(())
    }

    /// How many receive futures wait.
    #[cfg(ebbtide_model)]
    pub(crate) fn waiting(&self) -> usize {
        self.receive.waiting()
    }

    /// Steps 1 to 4 of the drain, for this socket alone.
    pub(crate) fn drain(self: &Rc<Self>) -> io::Result<()> {
        self.socket.registration.check_process()?;
        if !self.socket.is_open() {
            return Ok(());
        }
        let socket: Rc<dyn Drainable> = Rc::<Self>::clone(self);
        self.socket.registration.seal_socket(&socket)
    }

    /// The user drops the socket. When this returns, its address is free.
    pub(crate) fn close(&self) {
        // In a forked child the socket belongs to the parent.
        if !self.socket.is_open() || self.socket.registration.is_inherited() {
            return;
        }
        self.leave_share();
        self.receive.leave(&self.socket);
        let mut wakes = Wakes::default();
        self.receive.discard_rest(&self.socket, &mut wakes);
        self.receive.discard();
        wakes.run();
        self.note_abandonment();
        self.close_drainable();
        // It fails only if the filter was locked after the seal.
        let _ = self.receive.remove_seal(&self.socket);
        self.socket.set_life(Life::Closed);
        if Rc::strong_count(&self.socket) > 1 {
            // A wait for buffer space, whose future is gone, still holds the descriptor.
            self.socket.replace_descriptor();
        }
        self.send.end();
    }

    /// The user takes the socket back. Ends the receive, and returns the datagrams that were taken
    /// from the kernel and not received.
    pub(crate) fn detach(&self) -> io::Result<Vec<ReceivedMessage>> {
        self.socket.check_open()?;
        self.receive.leave(&self.socket);
        self.receive.check_reaped()?;
        // Code that reads the socket by other means does not expect trains.
        self.receive.end_gro(&self.socket)?;
        self.receive.remove_seal(&self.socket)?;
        self.socket.take_share()?;
        let taken = self.receive.hand_over();
        self.close_drainable();
        self.socket.set_life(Life::Closed);
        self.send.end();
        Ok(taken)
    }

    /// The runtime keeps the socket's statistics.
    fn close_drainable(&self) {
        let key = *self.drainable.get().expect("set when opened");
        self.socket.registration.close_drainable(key);
    }

    /// Notes what the kernel throws away. With [`Exit::Leave`] it throws nothing away: others who
    /// hold the socket may still receive it.
    fn note_abandonment(&self) {
        if self.exit.get() != Exit::Leave {
            self.receive.note_abandonment(&self.socket);
        }
    }
}

impl Sink for Endpoint {
    fn socket(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn layout(&self) -> Layout {
        self.receive.layout()
    }

    fn receive(&self, batch: Batch<'_>, armed: Armed, wakes: &mut Wakes) -> Verdict {
        self.receive.arrived(&self.socket, batch, armed, wakes)
    }

    fn end(&self, error: Option<io::Error>, armed: Armed, wakes: &mut Wakes) -> Verdict {
        self.receive.ended(&self.socket, error, armed, wakes)
    }
}

impl AtTurnEnd for Endpoint {
    fn turn_ends(&self, wakes: &mut Wakes) -> Again {
        let receives = self.receive.turn_ends(wakes);
        let again = receives.max(self.send.send_together(self.sends(), wakes));
        self.socket.was_called_at_turn_end(again);
        again
    }
}

impl Drainable for Endpoint {
    fn exit(&self) -> Exit {
        self.exit.get()
    }

    fn leave_share(&self) {
        if self.exit.get() != Exit::Leave {
            self.socket.leave_share();
        }
    }

    fn seal(&self) -> io::Result<()> {
        self.receive.seal(&self.socket, self.exit.get())
    }

    fn cancel(&self) {
        self.receive.cancel(&self.socket, self.exit.get());
    }

    fn is_reaped(&self) -> bool {
        self.receive.is_reaped()
    }

    fn read(&self, limit: usize, pass: Pass, wakes: &mut Wakes) -> ReadProgress {
        self.receive.read(&self.socket, limit, pass, wakes)
    }

    fn is_given_up(&self) -> bool {
        self.receive.is_given_up()
    }

    fn is_sealed(&self) -> bool {
        self.receive.is_sealed()
    }

    fn undelivered(&self) -> usize {
        self.receive.undelivered()
    }

    fn buffers_held(&self) -> usize {
        self.receive.arrivals.borrow().buffers()
    }

    fn delivered(&self) -> u64 {
        self.receive.arrivals.borrow().delivered()
    }

    fn receivers(&self, wakes: &mut Wakes) -> Receivers {
        self.receive.receivers(&self.socket, wakes)
    }

    fn discard_rest(&self, wakes: &mut Wakes) -> usize {
        self.receive.discard_rest(&self.socket, wakes)
    }

    fn end(&self) {
        // A drained socket has left its share already. One that was opened since has not.
        self.leave_share();
        let drops = self.socket.socket.drop_count().unwrap_or(0);
        self.note_abandonment();
        self.socket.set_life(Life::Ended { drops });
        self.receive.discard();
        // It fails only if the filter was locked after the seal.
        let _ = self.receive.remove_seal(&self.socket);
        self.socket.replace_descriptor();
        self.send.end();
    }

    fn stats(&self) -> SocketStats {
        self.receive.stats(&self.socket)
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use ebbtide_runtime::task::yield_now;
    use ebbtide_runtime::{Drain, Runtime};

    use super::*;
    use crate::UnixDatagram;

    /// Fails when an empty queue that was seen before the seal is taken for the end.
    #[test]
    fn an_empty_queue_before_the_seal_is_not_the_end() {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            let endpoint = receiver.endpoint();
            let mut wakes = Wakes::default();
            endpoint.cancel();
            endpoint.socket.registration.reap(endpoint.receive.key());
            assert_eq!(endpoint.read(1, Pass::Early, &mut wakes), ReadProgress::Ended);
            sender.try_send(b"comes before the seal").unwrap();
            while endpoint.read(1, Pass::Last, &mut wakes) == ReadProgress::More {}
            assert_eq!(receiver.try_recv().unwrap().unwrap()[..], *b"comes before the seal");
            assert!(receiver.try_recv().unwrap().is_none());
        });
        runtime.shutdown(Drain::default());
    }

    /// A socket may receive more datagrams after it was closed, while the kernel still has its
    /// receive. Fails when the pool loses a buffer for each.
    #[test]
    fn what_waits_in_an_inbox_that_is_dropped_goes_back_to_the_pool() {
        let runtime = Runtime::new().unwrap();
        let before = runtime.metrics().free_buffers;
        runtime.block_on(async {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            for _ in 0..10 {
                sender.try_send(b"waits").unwrap();
            }
            for _ in 0..1_000 {
                if receiver.stats().received == 10 {
                    break;
                }
                yield_now().await;
            }
            assert_eq!(runtime.metrics().free_buffers, before - 10);
            let endpoint = receiver.endpoint();
            endpoint.receive.halt(&endpoint.socket);
            endpoint.receive.forget_all(&endpoint.socket);
            assert_eq!(runtime.metrics().free_buffers, before);
        });
        runtime.shutdown(Drain::default());
    }
}
