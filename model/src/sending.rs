//! The tasks that send, and the fate of a send that waits.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use ebbtide_runtime::spawn;

use crate::coverage::Event;
use crate::program::{AnySocket, Program, Task};
use crate::ring::{udp_address, unix_path};
use crate::socket::Kind;
use crate::world::Shared;

impl Program {
    pub(crate) fn spawn_sender(self: &Rc<Self>) {
        let Some((index, socket)) = self.any_socket() else { return };
        let program = Rc::clone(self);
        let is_aborted = Rc::new(Cell::new(false));
        let task = Rc::clone(&is_aborted);
        let handle = spawn(async move {
            for _ in 0..program.below(program.size.datagrams) {
                let count = program.world.borrow().sockets.len();
                let target = program.below(count);
                program.send((index, &socket), target, &task).await;
                if program.chance(20) {
                    program.pause().await;
                }
            }
        });
        self.tasks.borrow_mut().push(Task { handle, is_aborted });
    }

    /// Sends one datagram from a socket of the program to another, in one of several ways. `task`
    /// becomes true when the task that sends is aborted.
    async fn send(&self, (index, from): (usize, &AnySocket), target: usize, task: &Rc<Cell<bool>>) {
        let kind = self.world.borrow().sockets[target].kind;
        let payload = {
            let mut world = self.world.borrow_mut();
            let empties = world.choices.one_of(&[0, 20]);
            world.compose(0, empties).payload
        };
        let impatient = self.chance(20);
        let errors = Errors { world: &self.world, index, socket: from };
        let result = match (from, kind) {
            (AnySocket::Udp(socket), Kind::Udp) => {
                let address = udp_address(target);
                if self.chance(10) {
                    let _ = errors.note(|| Poll::Ready(socket.try_send_to(&payload, address)));
                    return;
                }
                self.tracked(socket.send_to(&payload, address), errors, impatient, task).await
            }
            (AnySocket::Unix(socket), Kind::Unix) => {
                let path = unix_path(target);
                if self.chance(10) {
                    let _ = errors.note(|| Poll::Ready(socket.try_send_to(&payload, path)));
                    return;
                }
                self.tracked(socket.send_to(&payload, path), errors, impatient, task).await
            }
            _ => return,
        };
        let Some(Err(error)) = result else { return };
        let errno = error.raw_os_error();
        let is_known = matches!(errno, Some(libc::EPIPE | libc::ECONNREFUSED))
            || error.kind() == io::ErrorKind::NotConnected;
        if !is_known {
            self.world.borrow_mut().violate(format!("a send failed: {error}"));
        }
    }

    fn tracked<'a, F: Future>(
        &self,
        send: F,
        errors: Errors<'a>,
        is_impatient: bool,
        is_aborted: &Rc<Cell<bool>>,
    ) -> TrackedSend<'a, F> {
        TrackedSend {
            world: Rc::clone(&self.world),
            send: Box::pin(send),
            errors,
            is_impatient,
            is_aborted: Rc::clone(is_aborted),
            is_waiting: false,
        }
    }
}

/// The errors that were received on a socket. If nobody receives, a send returns them.
struct Errors<'a> {
    world: &'a Shared,
    index: usize,
    socket: &'a AnySocket,
}

impl Errors<'_> {
    /// Sends. Returns `None` if the send returned such an error, which is recorded.
    fn note<T>(&self, send: impl FnOnce() -> Poll<io::Result<T>>) -> Poll<Option<io::Result<T>>> {
        let before = self.socket.stats().errors;
        let sent = send();
        if let Poll::Ready(Err(error)) = &sent
            && self.socket.stats().errors > before
        {
            self.world.borrow_mut().deliver_error(self.index, error);
            return Poll::Ready(None);
        }
        sent.map(Some)
    }
}

/// A send of the program, which is counted while it waits.
struct TrackedSend<'a, F> {
    world: Shared,
    send: Pin<Box<F>>,
    errors: Errors<'a>,
    /// Whether it is dropped if it has to wait.
    is_impatient: bool,
    is_aborted: Rc<Cell<bool>>,
    is_waiting: bool,
}

impl<F> TrackedSend<'_, F> {
    fn set_waiting(&mut self, is_waiting: bool) {
        let waiting = &mut self.world.borrow_mut().sends_waiting;
        *waiting = *waiting + usize::from(is_waiting) - usize::from(self.is_waiting);
        self.is_waiting = is_waiting;
    }
}

impl<F: Future<Output = io::Result<usize>>> Future for TrackedSend<'_, F> {
    /// `None` if the send was dropped, or returned an error of the socket.
    type Output = Option<io::Result<usize>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = this.errors.note(|| this.send.as_mut().poll(cx));
        if polled.is_pending() && self.is_impatient {
            self.world.borrow_mut().note(Event::SendDropped);
            return Poll::Ready(None);
        }
        self.set_waiting(polled.is_pending());
        polled
    }
}

impl<F> Drop for TrackedSend<'_, F> {
    fn drop(&mut self) {
        if !self.is_waiting {
            return;
        }
        self.set_waiting(false);
        if !self.is_aborted.get() {
            // Only the end of the runtime drops it early.
            self.world.borrow_mut().sends_cut += 1;
        }
    }
}
