//! What the requests in flight do when they are run, and what schedules them. A receive delivers, a
//! wait for buffer space ends, the poll of the eventfd posts.

use crate::buffers::{Buffers, Message};
use crate::coverage::Event;
use crate::entry::Reserved;
use crate::kernel::{BUFFER_SHIFT, Completion, HAS_BUFFER, Kind, MORE, Posted, Request};
use crate::socket::{Arrival, name_of};
use crate::world::World;

impl World {
    /// Delivers to a multishot receive until the queue is empty or the receive ends.
    pub(crate) fn receive(
        &mut self,
        user_data: u64,
        socket: usize,
        reserved: Reserved,
        true_length: bool,
    ) {
        let limit = self.version.deliveries();
        for delivered in 0.. {
            // The buffer comes before the socket. Without a buffer, the receive ends in any case.
            let Some(buffer) = self.buffers.next() else {
                self.note(match self.sockets[socket].queued() {
                    0 => Event::ArmedNoBuffer,
                    _ => Event::EndedNoBuffer,
                });
                return self.end(user_data, -libc::ENOBUFS, 0);
            };
            if !Buffers::holds(buffer, reserved) {
                return self.end(user_data, -libc::EFAULT, 0);
            }
            if self.choices.chance(1) {
                self.note(Event::EndedSpurious);
                return self.end(user_data, -libc::EAGAIN, 0);
            }
            if !self.sockets[socket].is_readable() {
                return;
            }
            if Some(delivered) == limit {
                self.note(Event::Limit);
                return self.queues.schedule(user_data);
            }
            let Some(next) = self.take(socket) else { return };
            let datagram = match next {
                Arrival::Error(error) => {
                    self.note(Event::EndedError);
                    return self.end(user_data, -error, 0);
                }
                Arrival::Datagram(datagram) => datagram,
            };
            let name = name_of(self.sockets[socket].kind, datagram.sender);
            let control = datagram.control();
            let message = Message { name: &name, control: &control, payload: &datagram.payload };
            let result = self.buffers.fill(buffer, reserved, &message, true_length);
            let flags = HAS_BUFFER | u32::from(buffer.id) << BUFFER_SHIFT;
            if datagram.payload.is_empty() {
                self.note(Event::EndedEmpty);
                return self.end(user_data, result, flags);
            }
            if self.post(Completion { user_data, result, flags: flags | MORE }) == Posted::No {
                self.note(Event::EndedFull);
                return self.end(user_data, result, flags);
            }
        }
    }

    /// The program's side takes the next arrival of a socket.
    pub(crate) fn take(&mut self, socket: usize) -> Option<Arrival> {
        let taken = self.sockets[socket].take()?;
        if let Arrival::Datagram(datagram) = &taken
            && datagram.payload.len() > self.buffer_size
        {
            self.sockets[socket].ledger.truncated += 1;
        }
        self.wake_writers();
        Some(taken)
    }

    /// A socket has become readable.
    pub(crate) fn wake_receive(&mut self, socket: usize) {
        if let Some(user_data) = self.queues.receive_of(socket) {
            self.queues.schedule(user_data);
        }
    }

    /// There may be space to send: in the queue of a peer, or in a send buffer.
    pub(crate) fn wake_writers(&mut self) {
        for index in 0..self.sockets.len() {
            let socket = &self.sockets[index];
            if !socket.send_buffer_blocks && socket.blocked_by.is_empty() {
                continue;
            }
            let sockets = &self.sockets;
            let is_full = |target: &usize| sockets[*target].blocks_senders();
            let full: Vec<usize> =
                sockets[index].blocked_by.iter().copied().filter(is_full).collect();
            let socket = &mut self.sockets[index];
            let was_blocked = socket.send_buffer_blocks || socket.blocked_by.len() > full.len();
            if socket.send_buffer_full || !was_blocked {
                continue;
            }
            socket.blocked_by = full;
            socket.send_buffer_blocks = false;
            // For a wait that begins later.
            socket.room_came = true;
            let is_of_it = |request: &&Request| request.kind == Kind::Room { socket: index };
            let rooms: Vec<u64> =
                self.queues.requests.iter().filter(is_of_it).map(|room| room.user_data).collect();
            for user_data in rooms {
                self.queues.schedule(user_data);
            }
        }
    }

    /// A wait for buffer space begins.
    pub(crate) fn begin_room(&mut self, user_data: u64, index: usize) {
        let socket = &mut self.sockets[index];
        let is_blocked = socket.send_buffer_blocks || !socket.blocked_by.is_empty();
        if std::mem::take(&mut socket.room_came) || !is_blocked {
            self.end_room(user_data);
        }
    }

    pub(crate) fn end_room(&mut self, user_data: u64) {
        self.note(Event::RoomCame);
        self.end(user_data, i32::from(libc::POLLOUT), 0);
    }

    /// The eventfd was written to.
    pub(crate) fn wake_watch(&mut self) {
        self.queues.is_signalled = true;
        let watch = self.queues.requests.iter().find(|request| request.kind == Kind::Watch);
        if let Some(user_data) = watch.map(|watch| watch.user_data) {
            self.queues.schedule(user_data);
        }
    }

    pub(crate) fn post_wakeup(&mut self, user_data: u64) {
        if !std::mem::take(&mut self.queues.is_signalled) {
            return;
        }
        self.note(Event::Woken);
        let flags = MORE;
        let result = i32::from(libc::POLLIN);
        if self.post(Completion { user_data, result, flags }) == Posted::No {
            self.note(Event::WatchEnded);
            self.end(user_data, result, 0);
        }
    }
}
