//! What the runtime and the sockets see of the world: [`Ring`] and [`SocketHandle`].

// UNSAFETY: an entry names a descriptor by its number.
#![expect(unsafe_code, reason = "argued above")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use ebbtide_net::model::ModelSocket;
use ebbtide_runtime::driver::Layout;
use ebbtide_runtime::model::ModelQueues;
use io_uring::squeue;
use socket2::SockAddr;

use crate::buffers::{HEADER_LEN, header};
use crate::coverage::Event;
use crate::entry::Entry;
use crate::kernel::Queues;
use crate::socket::{Arrival, CONTROL_LEN, Kind, Seal, Socket, name_of};
use crate::world::{Sent, Shared, Stage};

/// The ring of a world.
pub(crate) struct Ring {
    world: Shared,
}

impl Ring {
    pub(crate) fn new(
        world: &Shared,
        submission_entries: usize,
        completion_entries: usize,
    ) -> Self {
        world.borrow_mut().queues = Queues::new(submission_entries, completion_entries);
        Self { world: Rc::clone(world) }
    }
}

impl ModelQueues for Ring {
    fn register_buffers(&mut self, address: u64, entries: u16) {
        self.world.borrow_mut().buffers.register(address, entries);
    }

    fn unregister_buffers(&self) {
        let mut world = self.world.borrow_mut();
        world.check_pool();
        world.buffers.unregister();
    }

    fn push(&mut self, entry: &squeue::Entry) -> bool {
        self.world.borrow_mut().push(Entry::read(entry))
    }

    fn queued(&self) -> usize {
        self.world.borrow().queues.queued()
    }

    fn enter(&mut self, queued: usize, least: usize, time: Option<Duration>) -> io::Result<usize> {
        self.world.borrow_mut().enter(queued, least, time)
    }

    fn take_completions(&mut self, take: &mut dyn FnMut(u64, i32, u32)) {
        self.world.borrow_mut().call();
        loop {
            // The world is not borrowed while the program's side handles the completion.
            let completion = self.world.borrow_mut().take_completion();
            let Some(completion) = completion else { break };
            take(completion.user_data, completion.result, completion.flags);
        }
    }

    fn cancel_now(&mut self, user_data: u64) -> bool {
        self.world.borrow_mut().cancel_now(user_data)
    }

    fn lost(&self) -> u32 {
        self.world.borrow().queues.lost()
    }

    fn posted(&self) -> usize {
        self.world.borrow().queues.posted()
    }

    fn has_overflowed(&self) -> bool {
        self.world.borrow().queues.has_overflowed()
    }

    fn has_task_work(&self) -> bool {
        self.world.borrow().queues.has_task_work()
    }
}

/// A socket of a world, as its owner sees it.
pub(crate) struct SocketHandle {
    world: Shared,
    index: usize,
    /// The file that its descriptor belongs to.
    file: File,
}

/// The space that a receive of a UDP socket reserves for the address.
const INTERNET_NAME_LEN: usize = 28;

/// The UDP port of the socket 0 of a world.
const FIRST_PORT: u16 = 10_000;

/// The number of the first sender that is a socket of the program.
const FIRST_OWN_SENDER: u16 = 5_000;

/// The address of the UDP socket `index` of a world.
pub(crate) fn udp_address(index: usize) -> std::net::SocketAddr {
    (std::net::Ipv4Addr::LOCALHOST, FIRST_PORT + index as u16).into()
}

/// The path of the Unix socket `index` of a world.
pub(crate) fn unix_path(index: usize) -> String {
    format!("t/{index}")
}

fn index_of(address: &SockAddr) -> Option<usize> {
    if let Some(address) = address.as_socket() {
        return address.port().checked_sub(FIRST_PORT).map(usize::from);
    }
    address.as_pathname()?.to_str()?.strip_prefix("t/")?.parse().ok()
}

impl SocketHandle {
    /// Opens a socket that can queue `capacity` datagrams. `file` can be any file, it is for the
    /// descriptor.
    pub(crate) fn open(world: &Shared, kind: Kind, capacity: usize, file: File) -> Self {
        let mut inside = world.borrow_mut();
        let index = inside.sockets.len();
        let mut socket = Socket::new(kind, file.as_raw_fd(), capacity);
        socket.was_open_at_end = inside.stage != Stage::Running;
        inside.sockets.push(socket);
        inside.tell(format_args!("socket {index}: opened, {kind:?}, capacity {capacity}"));
        drop(inside);
        Self { world: Rc::clone(world), index, file }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    fn close(&self) {
        let mut world = self.world.borrow_mut();
        let socket = &mut world.sockets[self.index];
        if !socket.is_open() {
            return;
        }
        let left = socket.queued();
        socket.close();
        world.tell(format_args!("socket {}: closed, {left} queued", self.index));
        world.wake_writers();
    }
}

fn failed<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

impl ModelSocket for SocketHandle {
    fn drop_count(&self) -> io::Result<u32> {
        let mut world = self.world.borrow_mut();
        world.call();
        let ledger = &mut world.sockets[self.index].ledger;
        ledger.drops_told = ledger.dropped + ledger.refused;
        Ok(ledger.drops_told)
    }

    fn seal_by_filter(&self) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        world.call();
        let was_refused = world.sockets[self.index].seal == Seal::Refused;
        if was_refused || world.may_refuse_seals && world.choices.chance(2) {
            world.note(Event::SealRefused);
            world.sockets[self.index].seal = Seal::Refused;
            return failed(libc::EPERM);
        }
        world.note(Event::SealedByFilter);
        world.tell(format_args!("socket {}: sealed", self.index));
        world.sockets[self.index].seal = Seal::Sealed;
        Ok(())
    }

    fn seal_by_shutdown(&self) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        world.call();
        world.note(Event::SealedByShutdown);
        world.tell(format_args!("socket {}: sealed", self.index));
        world.sockets[self.index].seal = Seal::Sealed;
        // The kernel wakes every poll of it.
        world.wake_receive(self.index);
        world.wake_writers();
        Ok(())
    }

    fn receive(&self, memory: &mut [u8], layout: Layout) -> io::Result<usize> {
        let mut world = self.world.borrow_mut();
        world.call();
        if world.is_broken() {
            return failed(libc::EAGAIN);
        }
        if world.choices.chance(3) {
            world.note(Event::DirectInterrupted);
            return failed(libc::EINTR);
        }
        let Some(arrival) = world.take(self.index) else {
            let socket = &mut world.sockets[self.index];
            socket.is_read_out |= socket.is_sealed();
            world.tell(format_args!("socket {}: read directly: EAGAIN", self.index));
            return failed(libc::EAGAIN);
        };
        let kind = world.sockets[self.index].kind;
        world.tell(format_args!("socket {}: read directly: {arrival:?}", self.index));
        let datagram = match arrival {
            Arrival::Error(errno) => {
                world.note(Event::DirectError);
                return failed(errno);
            }
            Arrival::Datagram(datagram) => datagram,
        };
        world.note(Event::DirectRead);
        let name = name_of(kind, datagram.sender);
        let offset = layout.payload_offset();
        let captured = datagram.payload.len().min(memory.len() - offset);
        let is_cut = captured < datagram.payload.len();
        let flags = if is_cut { libc::MSG_TRUNC } else { 0 };
        let control = datagram.control();
        let header = header(name.len(), control.len(), datagram.payload.len(), flags);
        memory[..HEADER_LEN].copy_from_slice(&header);
        memory[HEADER_LEN..][..name.len()].copy_from_slice(&name);
        if !control.is_empty() {
            memory[HEADER_LEN + INTERNET_NAME_LEN..][..CONTROL_LEN].copy_from_slice(&control);
        }
        memory[offset..][..captured].copy_from_slice(&datagram.payload[..captured]);
        Ok(offset + captured)
    }

    fn peek(&self) -> io::Result<usize> {
        let mut world = self.world.borrow_mut();
        world.call();
        let socket = &mut world.sockets[self.index];
        let queued = socket.queued();
        // Peeked until there is an answer. Each peek takes one error.
        if queued > 0 && socket.ledger.abandoned == 0 {
            socket.ledger.abandoned = 1;
            world.note(Event::PeekedQueued);
        }
        let socket = &mut world.sockets[self.index];
        if let Some(errno) = socket.error.take() {
            world.note(Event::PeekedError);
            return failed(errno);
        }
        if queued == 0 { failed(libc::EAGAIN) } else { Ok(1) }
    }

    fn send(&self, payload: &[u8], to: Option<&SockAddr>) -> io::Result<usize> {
        let mut world = self.world.borrow_mut();
        world.call();
        let Some(target) = to.and_then(index_of) else {
            return failed(libc::EDESTADDRREQ);
        };
        if world.choices.chance(2) {
            return failed(libc::EINTR);
        }
        let kind = world.sockets[self.index].kind;
        if kind == Kind::Udp && world.choices.chance(3) {
            world.sockets[self.index].send_buffer_full = true;
        }
        if world.sockets[self.index].send_buffer_full {
            world.sockets[self.index].send_buffer_blocks = true;
            world.note(Event::NoRoom);
            return failed(libc::EAGAIN);
        }
        let sender = FIRST_OWN_SENDER + self.index as u16;
        let datagram = world.compose_like(sender, payload);
        match world.send(target, datagram) {
            Sent::Yes => Ok(payload.len()),
            Sent::Failed(errno) => {
                if errno == libc::EAGAIN {
                    world.note(Event::NoRoom);
                    world.sockets[self.index].blocked_by.push(target);
                }
                failed(errno)
            }
        }
    }

    fn replace_descriptor(&self) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        world.call();
        world.check_unused(self.index);
        drop(world);
        self.close();
        self.world.borrow_mut().sockets[self.index].placeholder = Some(self.file.as_raw_fd());
        Ok(())
    }
}

impl AsFd for SocketHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SocketHandle {
    fn drop(&mut self) {
        let mut world = self.world.borrow_mut();
        world.check_unused(self.index);
        world.check_nothing_in_flight(self.index);
        world.sockets[self.index].placeholder = None;
        drop(world);
        self.close();
    }
}

/// A second descriptor of what an entry names.
pub(crate) fn duplicate(descriptor: i32) -> Option<File> {
    // SAFETY: owned until final. What an entry names is open until its final completion.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    descriptor.try_clone_to_owned().ok().map(File::from)
}
