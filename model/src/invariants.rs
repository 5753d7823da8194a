//! What must hold at each step of the kernel: no receiver is forgotten when the thread sleeps,
//! nothing names a closed socket, and the pool and the kernel agree. `receiving.rs` has what must
//! hold when a datagram is delivered, `run.rs` what must hold at the end.

use std::time::Duration;

use crate::kernel::{Kind, Request};
use crate::socket::Seal;
use crate::world::World;

/// The largest pool of which all buffers are provided to the kernel.
const WHOLE_POOL: usize = 64;

/// How long the runtime waits for one completion of a cancelled request. It handles nothing else in
/// that time.
const REAP_STEP: Duration = Duration::from_millis(100);

impl World {
    /// The thread goes to sleep. No receiver may be forgotten.
    pub(crate) fn check_asleep(&mut self, time: Option<Duration>) {
        if time == Some(REAP_STEP) {
            return;
        }
        let free = self.pool.as_ref().map_or(0, ebbtide_runtime::buffer::Pool::free);
        let mut wrong = None;
        for (at, socket) in self.sockets.iter().enumerate() {
            if !socket.is_open() {
                continue;
            }
            let inbox = socket.ledger.in_inbox.len();
            if socket.ledger.waiting > 0 && (inbox > 0 || socket.is_read_out) {
                wrong = Some(format!(
                    "socket {at}: a receiver waits, but {inbox} arrivals are in the inbox, \
                     or its end is reached"
                ));
            }
            let is_left = socket.is_sealed() && self.queues.receive_of(at).is_none();
            if is_left && socket.is_readable() && socket.ledger.waiting > 0 {
                wrong = Some(format!(
                    "socket {at}: a receiver waits, but {} are queued on the sealed socket",
                    socket.queued()
                ));
            }
            let is_deaf = socket.seal == Seal::Open
                && socket.is_readable()
                && self.queues.receive_of(at).is_none()
                && inbox == 0
                && free > 0;
            if is_deaf {
                wrong = Some(format!(
                    "socket {at}: {} are queued and {free} buffers are free, but no receive \
                     is armed",
                    socket.queued()
                ));
            }
        }
        if let Some(what) = wrong {
            self.violate(what);
        }
    }

    /// A socket is closed. The ring may still name it.
    pub(crate) fn check_unused(&mut self, socket: usize) {
        if self.queues.receive_of(socket).is_some() {
            self.violate(format!("socket {socket} was closed while its receive is in flight"));
        }
    }

    /// A socket and its descriptor are closed. Nothing may name it any more.
    pub(crate) fn check_nothing_in_flight(&mut self, socket: usize) {
        let names_it = |request: &Request| request.kind == Kind::Room { socket };
        if self.queues.requests.iter().any(names_it) {
            self.violate(format!(
                "socket {socket} was closed while a poll for buffer space is in flight"
            ));
        }
    }

    /// When the kernel is entered, it has all free buffers of a small pool.
    pub(crate) fn check_provided(&mut self) {
        let Some(pool) = &self.pool else { return };
        let (count, free) = (pool.count(), pool.free());
        let lent = self.buffers.with_program();
        if count <= WHOLE_POOL && free > count - lent {
            let of = format!("of {count} buffers the program's side holds {lent}");
            self.violate(format!("{of}, but the pool reports {free} as free"));
        }
    }

    /// Compares the pool with the kernel's view of its buffers.
    pub(crate) fn check_pool(&mut self) {
        if let Err(what) = self.buffers.observe() {
            self.violate(what);
        }
        let Some(pool) = &self.pool else { return };
        let (count, free) = (pool.count(), pool.free());
        if free > 0 {
            return;
        }
        // Datagrams in inboxes alone never take the last buffer. The rest of a train that was begun
        // counts as held.
        let begun = self.sockets.iter().filter(|socket| socket.ledger.is_within_train()).count();
        if self.held + begun == 0 {
            let of = format!("no buffer of {count} is free");
            self.violate(format!("{of}, but the program holds none"));
        }
    }
}
