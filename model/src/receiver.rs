//! The tasks that receive: how long, how fast, and how they end. `receiving.rs` has the ways to
//! receive once.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::time::Duration;

use ebbtide_net::UnixAddr;
use ebbtide_runtime::time::sleep;
use ebbtide_runtime::{JoinHandle, spawn};

use crate::address::Peer;
use crate::coverage::Event;
use crate::program::{AnySocket, Expected, Program};
use crate::receiving::{Received, WAYS, Way, receive};

/// How a task receives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// How many times it receives. `None` means to the end of the socket.
    pub(crate) limit: Option<usize>,
    /// Whether it panics at the limit.
    pub(crate) panics: bool,
    /// How many receives of a hundred are followed by a pause.
    pub(crate) slowness: usize,
    /// The only way in which it receives. `None` means another one each time.
    pub(crate) way: Option<Way>,
}

impl Program {
    pub(crate) fn spawn_any_receiver(self: &Rc<Self>, socket: &AnySocket, index: usize) {
        let manner = Manner {
            limit: self.chance(70).then(|| self.below(20)),
            panics: self.chance(30),
            slowness: self.one_of(&[0, 10, 50]),
            way: self.chance(50).then(|| self.one_of(&WAYS)),
        };
        let task = self.receiver(socket, index, manner);
        self.keep_task(task);
    }

    /// Spawns a receiver that nobody aborts.
    pub(crate) fn spawn_receiver(
        self: &Rc<Self>,
        socket: &AnySocket,
        index: usize,
        manner: Manner,
    ) {
        drop(self.receiver(socket, index, manner));
    }

    fn receiver(
        self: &Rc<Self>,
        socket: &AnySocket,
        index: usize,
        manner: Manner,
    ) -> JoinHandle<()> {
        let program = Rc::clone(self);
        match socket {
            AnySocket::Udp(socket) => {
                spawn(receive_all::<SocketAddr>(program, Rc::clone(socket), index, manner))
            }
            AnySocket::Unix(socket) => {
                spawn(receive_all::<UnixAddr>(program, Rc::clone(socket), index, manner))
            }
        }
    }
}

/// The body of a task that receives.
async fn receive_all<A: Peer>(
    program: Rc<Program>,
    socket: Rc<A::Socket>,
    index: usize,
    manner: Manner,
) {
    let mut received = 0;
    loop {
        if manner.limit.is_some_and(|limit| received >= limit) {
            break;
        }
        let way = manner.way.unwrap_or_else(|| program.one_of(&WAYS));
        match receive::<A>(&program, &socket, index, way).await {
            Received::Some(count) => received += count,
            // Nothing came, so it pauses before it receives again.
            Received::Nothing => sleep(Duration::from_millis(1)).await,
            Received::End => return,
        }
        if program.chance(manner.slowness) {
            program.pause().await;
        }
        if program.chance(10) {
            program.release();
        }
        if program.world.borrow().is_broken() {
            return;
        }
    }
    if manner.panics {
        program.note(Event::Panicked);
        let last: Box<dyn Any + Send> = Box::new(Expected);
        resume_unwind(last);
    }
}
