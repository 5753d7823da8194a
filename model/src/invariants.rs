//! What must hold at each step of the kernel: nobody is forgotten when the thread sleeps, nothing
//! names a socket that is closed, and pool and kernel agree. What must hold of a datagram when it is
//! delivered is in `receiving.rs`, and what must hold at the end in `run.rs`.

use std::time::Duration;

use crate::kernel::{Kind, Request};
use crate::socket::Seal;
use crate::world::World;

/// Buffers of a pool that is given to the kernel whole.
const WHOLE_POOL: usize = 64;

/// The time that the runtime waits for a single completion of what it cancelled, and does not see
/// to anything else meanwhile.
const REAP_STEP: Duration = Duration::from_millis(100);

impl World {
    /// The thread goes to sleep. Nobody may be forgotten.
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
                     or the end is"
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
                    "socket {at} is deaf: {} are queued, {free} buffers are free, but no receive \
                     is armed",
                    socket.queued()
                ));
            }
        }
        if let Some(what) = wrong {
            self.violate(what);
        }
    }

    /// A socket is closed while something of the ring may still name it.
    pub(crate) fn check_unused(&mut self, socket: usize) {
        if self.queues.receive_of(socket).is_some() {
            self.violate(format!("socket {socket} was closed while its receive is in flight"));
        }
    }

    /// A socket goes, with its descriptor: nothing may name it any more.
    pub(crate) fn check_nothing_in_flight(&mut self, socket: usize) {
        let names_it = |request: &Request| request.kind == Kind::Room { socket };
        if self.queues.requests.iter().any(names_it) {
            self.violate(format!("socket {socket} was closed while a poll for room is in flight"));
        }
    }

    /// When the kernel is entered, all free buffers of a small pool are with it.
    pub(crate) fn check_provided(&mut self) {
        let Some(pool) = &self.pool else { return };
        let (count, free) = (pool.count(), pool.free());
        let lent = self.buffers.with_program();
        if count <= WHOLE_POOL && free > count - lent {
            let of = format!("of {count} buffers the program's side has {lent}");
            self.violate(format!("{of}, but the pool says that {free} are free"));
        }
    }

    /// Compares the pool with what the kernel knows of its buffers.
    pub(crate) fn check_pool(&mut self) {
        if let Err(what) = self.buffers.observe() {
            self.violate(what);
        }
        let Some(pool) = &self.pool else { return };
        let (count, free) = (pool.count(), pool.free());
        if free > 0 {
            return;
        }
        // What is in the inboxes never takes the last one by itself; of a train that was begun, the
        // rest counts as held.
        let begun = self.sockets.iter().filter(|socket| socket.ledger.is_within_train()).count();
        if self.held + begun == 0 {
            let of = format!("of {count} buffers none is free");
            self.violate(format!("{of}, but the program holds none"));
        }
    }
}
