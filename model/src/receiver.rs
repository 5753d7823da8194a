//! The tasks that receive: for how long, how fast, and how they end. The ways in which they receive
//! once are in `receiving.rs`.

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

/// How a task that receives goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Receives until then; `None`: to the end of the socket.
    pub(crate) limit: Option<usize>,
    /// Whether it panics at the limit.
    pub(crate) panics: bool,
    /// Of a hundred receives, how many are followed by a pause.
    pub(crate) slowness: usize,
    /// The one way in which it receives; `None`: each time another.
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

    /// A task that nobody aborts.
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

/// What a task that receives does.
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
            // It was not worth the while: it is not asked again without a pause.
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
