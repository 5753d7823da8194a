//! [`Rig`]: the kernel in memory without a runtime, for scripts. `tests/conformance.rs` compares it
//! with the real kernel. It makes no random decisions.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use ebbtide_net::model::ModelSocket;
use ebbtide_runtime::driver::Layout;
use ebbtide_runtime::model::{ModelQueues, set_time};
use io_uring::squeue;

use crate::choices::Choices;
use crate::ring::{Ring, SocketHandle};
use crate::socket::{Datagram, Kind};
use crate::version::Version;
use crate::world::{Sent, Shared, World};

/// The kernel in memory, with one socket.
pub struct Rig {
    world: Shared,
    ring: Ring,
    socket: SocketHandle,
}

/// The kind of a datagram socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// UDP.
    Internet,
    /// Unix datagram.
    Unix,
}

impl Rig {
    /// A ring with queues of these sizes, and a socket.
    ///
    /// # Errors
    ///
    /// If no descriptor is left.
    pub fn new(
        version: Version,
        family: Family,
        submission: usize,
        completion: usize,
    ) -> io::Result<Self> {
        let world = Rc::new(RefCell::new(World::new(Choices::undisturbed(), version, false)));
        set_time(None);
        let ring = Ring::new(&world, submission, completion);
        let kind = match family {
            Family::Internet => Kind::Udp,
            Family::Unix => Kind::Unix,
        };
        let socket = SocketHandle::open(&world, kind, usize::MAX, File::open("/dev/null")?);
        Ok(Self { world, ring, socket })
    }

    /// The socket, for use in entries.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Registers a ring of buffers.
    pub fn register(&mut self, address: u64, entries: u16) {
        self.ring.register_buffers(address, entries);
    }

    /// Sends a datagram to the socket. Returns 0 or an errno.
    pub fn send(&mut self, payload: &[u8]) -> i32 {
        // The sender has the name that the test uses for its own sender.
        let datagram =
            Datagram { number: 0, payload: payload.into(), sender: 0, segment_size: None };
        match self.world.borrow_mut().send(0, datagram) {
            Sent::Yes => 0,
            Sent::Failed(errno) => errno,
        }
    }

    /// Makes an error pending on the socket, like the answer of a closed port.
    pub fn fail(&mut self, errno: i32) {
        let mut world = self.world.borrow_mut();
        world.sockets[0].error = Some(errno);
        world.wake_receive(0);
    }

    /// Pushes an entry. Returns false if the queue is full.
    pub fn push(&mut self, entry: &squeue::Entry) -> bool {
        self.ring.push(entry)
    }

    /// Enters without waiting.
    ///
    /// # Errors
    ///
    /// Those of `io_uring_enter(2)`.
    pub fn enter(&mut self) -> io::Result<usize> {
        let queued = self.ring.queued();
        self.ring.enter(queued, 0, Some(Duration::ZERO))
    }

    /// The completions that were posted: user data, result, flags.
    pub fn completions(&mut self) -> Vec<(u64, i32, u32)> {
        let mut taken = Vec::new();
        self.ring.take_completions(&mut |user_data, result, flags| {
            taken.push((user_data, result, flags));
        });
        taken
    }

    /// Whether completions are on the overflow list.
    pub fn has_overflowed(&self) -> bool {
        self.ring.has_overflowed()
    }

    /// Seals the socket, by filter or by shutdown.
    ///
    /// # Errors
    ///
    /// None.
    pub fn seal(&mut self, family: Family) -> io::Result<()> {
        match family {
            Family::Internet => self.socket.seal_by_filter(),
            Family::Unix => self.socket.seal_by_shutdown(),
        }
    }

    /// Reads one datagram directly and returns its payload.
    ///
    /// # Errors
    ///
    /// Those of `recvmsg(2)`.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let layout = Layout::new(NAME, 0);
        let mut memory = vec![0; 70_000];
        let len = self.socket.receive(&mut memory, layout)?;
        Ok(memory[layout.payload_offset()..len].to_vec())
    }

    /// How many datagrams were dropped.
    pub fn drops(&self) -> u32 {
        self.socket.drop_count().unwrap_or(0)
    }

    /// The first violation of an invariant, if there was one.
    pub fn violation(&self) -> Option<String> {
        self.world.borrow().violation().cloned()
    }
}

/// Space for an address.
const NAME: usize = 110;
