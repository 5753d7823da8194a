//! [`Program`]: a random program of sockets and tasks. The seed determines all of its decisions.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::poll_fn;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use ebbtide_net::model::waiting;
use ebbtide_net::{UdpSocket, UnixDatagram};
use ebbtide_runtime::task::yield_now;
use ebbtide_runtime::time::sleep;
use ebbtide_runtime::{Drain, DrainOutcome, JoinHandle, SocketStats, drain_with, spawn};

use crate::coverage::Event;
use crate::holding::Held;
use crate::receiver::Manner;
use crate::ring::SocketHandle;
use crate::socket::{Arrival, Kind};
use crate::world::{Sender, Shared};

/// The size of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) sockets: usize,
    pub(crate) tasks: usize,
    /// The largest number of datagrams of one sender.
    pub(crate) datagrams: usize,
    /// The largest number of moves between two actions of the main future.
    pub(crate) moves: usize,
    /// Whether one sender never stops.
    pub(crate) has_flood: bool,
    /// How many datagrams of a hundred tasks hold.
    pub(crate) keeping: usize,
}

pub(crate) struct Program {
    pub(crate) world: Shared,
    pub(crate) size: Size,
    /// Duplicated for the descriptors of sockets.
    file: File,
    sockets: RefCell<Vec<Member>>,
    pub(crate) tasks: RefCell<Vec<Task>>,
    /// Datagrams that the program holds, with their expected payloads.
    pub(crate) held: RefCell<Vec<Held>>,
}

/// A socket of the program.
struct Member {
    index: usize,
    /// `None` once the program has dropped it. Tasks may still have it.
    socket: Option<AnySocket>,
    /// Whether a task receives from it to its end in any case.
    has_collector: bool,
}

#[derive(Clone)]
pub(crate) enum AnySocket {
    Udp(Rc<UdpSocket>),
    Unix(Rc<UnixDatagram>),
}

impl AnySocket {
    pub(crate) fn stats(&self) -> SocketStats {
        match self {
            Self::Udp(socket) => socket.stats(),
            Self::Unix(socket) => socket.stats(),
        }
    }

    /// How many receivers wait, as the socket reports.
    pub(crate) fn waiting(&self) -> usize {
        match self {
            Self::Udp(socket) => waiting(socket),
            Self::Unix(socket) => waiting(socket),
        }
    }

    fn drain(&self) -> std::io::Result<()> {
        match self {
            Self::Udp(socket) => socket.drain(),
            Self::Unix(socket) => socket.drain(),
        }
    }
}

pub(crate) struct Task {
    pub(crate) handle: JoinHandle<()>,
    /// True once the program has aborted the task. Its waiting futures may then be dropped.
    pub(crate) is_aborted: Rc<Cell<bool>>,
}

/// The payload of an intended panic of a task.
pub(crate) struct Expected;

impl Program {
    pub(crate) fn new(world: &Shared, size: Size) -> std::io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            world: Rc::clone(world),
            size,
            file: File::open("/dev/null")?,
            sockets: RefCell::default(),
            tasks: RefCell::default(),
            held: RefCell::default(),
        }))
    }

    pub(crate) fn below(&self, bound: usize) -> usize {
        self.world.borrow_mut().choices.below(bound)
    }

    pub(crate) fn between(&self, least: usize, most: usize) -> usize {
        self.world.borrow_mut().choices.between(least, most)
    }

    pub(crate) fn one_of<T: Copy>(&self, options: &[T]) -> T {
        self.world.borrow_mut().choices.one_of(options)
    }

    pub(crate) fn chance(&self, percent: usize) -> bool {
        self.world.borrow_mut().choices.chance(percent)
    }

    pub(crate) fn note(&self, event: Event) {
        self.world.borrow_mut().note(event);
    }

    /// The main future.
    pub(crate) async fn main(self: Rc<Self>, panics: bool) {
        for _ in 0..self.between(1, self.size.sockets) {
            self.open_socket();
        }
        for _ in 0..self.below(self.size.tasks + 1) {
            self.spawn_any();
        }
        for _ in 0..self.between(1, 4) {
            self.wait(self.between(3, self.size.moves) as u64).await;
            if self.world.borrow().is_broken() {
                return;
            }
            self.act().await;
        }
        if panics {
            resume_unwind(Box::new(Expected));
        }
    }

    /// Waits until others have moved `moves` times.
    async fn wait(&self, moves: u64) {
        let mut is_registered = false;
        poll_fn(|cx| {
            let mut world = self.world.borrow_mut();
            if !is_registered && !world.is_broken() {
                is_registered = true;
                world.await_moves(moves, cx.waker().clone());
                return Poll::Pending;
            }
            if world.is_awaited() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Opens a socket, with senders to it and tasks that receive from it.
    fn open_socket(self: &Rc<Self>) {
        if let Some((index, socket)) = self.open_alone() {
            self.populate(index, &socket);
        }
    }

    /// Opens a socket without senders and receivers.
    fn open_alone(&self) -> Option<(usize, AnySocket)> {
        let kind = if self.chance(50) { Kind::Udp } else { Kind::Unix };
        let capacity = self.one_of(&[2, 5, 20, 80]);
        let Ok(file) = self.file.try_clone() else {
            self.world.borrow_mut().violate("no descriptor is left".into());
            return None;
        };
        let handle = SocketHandle::open(&self.world, kind, capacity, file);
        let index = handle.index();
        let opened = match kind {
            Kind::Udp => ebbtide_net::model::udp(Box::new(handle))
                .map(|socket| AnySocket::Udp(Rc::new(socket))),
            Kind::Unix => ebbtide_net::model::unix(Box::new(handle))
                .map(|socket| AnySocket::Unix(Rc::new(socket))),
        };
        // Refused only while the runtime shuts down.
        let socket = opened.ok()?;
        let member = Member { index, socket: Some(socket.clone()), has_collector: false };
        self.sockets.borrow_mut().push(member);
        Some((index, socket))
    }

    fn populate(self: &Rc<Self>, index: usize, socket: &AnySocket) {
        for _ in 0..self.between(0, 3) {
            self.add_sender(index);
        }
        if self.size.has_flood && self.chance(60) {
            self.add_flood(index);
        }
        if self.chance(75) {
            self.member(index, |member| member.has_collector = true);
            let slowness = self.one_of(&[0, 0, 10, 30]);
            self.spawn_receiver(
                socket,
                index,
                Manner { limit: None, panics: false, slowness, way: None },
            );
        }
        for _ in 0..self.below(3) {
            self.spawn_any_receiver(socket, index);
        }
    }

    fn member(&self, index: usize, change: impl FnOnce(&mut Member)) {
        let mut sockets = self.sockets.borrow_mut();
        if let Some(member) = sockets.iter_mut().find(|member| member.index == index) {
            change(member);
        }
    }

    fn add_sender(&self, target: usize) {
        let mut world = self.world.borrow_mut();
        let id = world.senders.len() as u16;
        let left = Some(world.choices.between(1, self.size.datagrams));
        let burst = world.choices.one_of(&[1, 3, 10, 45]);
        let empties = world.choices.one_of(&[0, 5, 10, 100]);
        let trains = world.choices.one_of(&[0, 0, 30]);
        let has_given_up = false;
        world.senders.push(Sender { id, target, left, burst, empties, trains, has_given_up });
    }

    fn add_flood(&self, target: usize) {
        let mut world = self.world.borrow_mut();
        let id = world.senders.len() as u16;
        let burst = world.choices.one_of(&[1, 4]);
        let sender =
            Sender { id, target, left: None, burst, empties: 5, trains: 0, has_given_up: false };
        world.senders.push(sender);
    }

    fn spawn_any(self: &Rc<Self>) {
        match self.below(5) {
            0 => {
                let program = Rc::clone(self);
                self.keep_task(spawn(async move {
                    program.pause().await;
                    Box::pin(program.act()).await;
                }));
            }
            1 | 2 => {
                if let Some((index, socket)) = self.any_socket() {
                    self.spawn_any_receiver(&socket, index);
                }
            }
            _ => self.spawn_sender(),
        }
    }

    pub(crate) fn keep_task(&self, handle: JoinHandle<()>) {
        self.tasks.borrow_mut().push(Task { handle, is_aborted: Rc::default() });
    }

    pub(crate) fn any_socket(&self) -> Option<(usize, AnySocket)> {
        let sockets = self.sockets.borrow();
        let open: Vec<(usize, AnySocket)> = sockets
            .iter()
            .filter_map(|member| Some((member.index, member.socket.clone()?)))
            .collect();
        if open.is_empty() {
            return None;
        }
        let at = self.below(open.len());
        Some(open[at].clone())
    }

    pub(crate) async fn pause(&self) {
        match self.below(3) {
            0 => yield_now().await,
            _ => sleep(Duration::from_millis(self.below(4) as u64)).await,
        }
    }

    /// Does one random action.
    async fn act(self: &Rc<Self>) {
        match self.below(13) {
            0..2 => self.abort_task(),
            2..4 => self.drop_socket(),
            4 => self.drain_socket(),
            5 => {
                if self.world.borrow().sockets.len() < 2 * self.size.sockets {
                    self.note(Event::SocketOpenedLate);
                    self.open_socket();
                }
            }
            6..8 => self.release(),
            8 => self.drain_all().await,
            9 => self.check_stats(),
            10 => self.open_and_let_go().await,
            _ => self.spawn_any(),
        }
    }

    fn abort_task(&self) {
        let tasks = self.tasks.borrow();
        if tasks.is_empty() {
            return;
        }
        let task = &tasks[self.below(tasks.len())];
        if !task.handle.is_finished() {
            self.note(Event::Aborted);
            task.is_aborted.set(true);
            task.handle.abort();
        }
    }

    /// Opens more sockets than the submission queue has space for. Drops the last of them after one
    /// enter of the kernel.
    async fn open_and_let_go(self: &Rc<Self>) {
        let count = self.between(3, 6);
        let opened: Vec<_> = (0..count).filter_map(|_| self.open_alone()).collect();
        yield_now().await;
        for (index, socket) in opened.into_iter().rev() {
            match self.below(4) {
                0 => self.populate(index, &socket),
                1 => {
                    self.drain(index, &socket);
                    self.let_go(index);
                }
                _ => {
                    self.note(Event::SocketsLetGo);
                    drop(socket);
                    self.let_go(index);
                }
            }
        }
    }

    fn drop_socket(&self) {
        let index = {
            let sockets = self.sockets.borrow();
            if sockets.is_empty() {
                return;
            }
            sockets[self.below(sockets.len())].index
        };
        self.let_go(index);
    }

    /// The program drops a socket. Tasks may still have it.
    fn let_go(&self, index: usize) {
        let mut dropped = None;
        self.member(index, |member| dropped = member.socket.take());
        let Some(socket) = dropped else { return };
        let is_last = match &socket {
            AnySocket::Udp(socket) => Rc::strong_count(socket) == 1,
            AnySocket::Unix(socket) => Rc::strong_count(socket) == 1,
        };
        drop(socket);
        if is_last {
            let mut world = self.world.borrow_mut();
            world.note(Event::SocketDropped);
            if world.sockets[index].is_open() {
                world.violate(format!("socket {index} was dropped, but is still open"));
            }
            let is_datagram = |arrival: &Arrival| matches!(arrival, Arrival::Datagram(_));
            if world.sockets[index].ledger.in_inbox.iter().any(is_datagram) {
                world.note(Event::SocketDropDiscarded);
            }
        }
    }

    fn drain_socket(&self) {
        if let Some((index, socket)) = self.any_socket() {
            self.drain(index, &socket);
        }
    }

    fn drain(&self, index: usize, socket: &AnySocket) {
        let drained = socket.drain();
        let mut world = self.world.borrow_mut();
        world.note(Event::SocketDrained);
        // Datagrams that are still queued are read when receivers take them.
        let socket = &world.sockets[index];
        if drained.is_ok() && !socket.is_sealed() && socket.is_open() && !world.is_broken() {
            world.violate(format!("socket {index} was drained, but is not sealed"));
        }
    }

    async fn drain_all(&self) {
        let time = self.one_of(&[0, 3, 50]);
        self.note(Event::ProgramDrained);
        let report = drain_with(Drain::default().deadline(Duration::from_millis(time))).await;
        let mut world = self.world.borrow_mut();
        if world.is_broken() {
            return;
        }
        if report.outcome == DrainOutcome::Complete {
            let left = world.sockets.iter().position(|socket| {
                let has_datagrams = socket
                    .ledger
                    .in_inbox
                    .iter()
                    .any(|arrival| matches!(arrival, Arrival::Datagram(_)));
                socket.is_open() && socket.is_sealed() && (has_datagrams || socket.queued() > 0)
            });
            if let Some(index) = left {
                world.violate(format!(
                    "a drain was complete, but socket {index} still has datagrams"
                ));
            }
        }
        let delivered: u64 = world.sockets.iter().map(|socket| socket.ledger.delivered).sum();
        if report.stats.delivered != delivered {
            world.violate(format!("{report}, but receivers got {delivered}"));
        }
    }

    fn check_stats(&self) {
        let Some((index, socket)) = self.any_socket() else { return };
        let (stats, waiting) = (socket.stats(), socket.waiting());
        let mut world = self.world.borrow_mut();
        let ledger = &world.sockets[index].ledger;
        // A receiver that was served or was dropped does not wait any more.
        let is_waited_for = waiting <= ledger.waiting;
        let inbox = stats.received - stats.delivered - stats.discarded;
        let holds = stats.delivered == ledger.delivered
            && stats.received <= ledger.taken
            && inbox <= ledger.undelivered()
            && stats.errors == ledger.errors_delivered
            && is_waited_for;
        if !holds && !world.is_broken() {
            world.violate(format!(
                "socket {index}: {stats:?} is wrong, with {waiting} receivers waiting"
            ));
        }
    }

    /// Whether every open socket is received from to its end.
    pub(crate) fn must_complete(&self) -> bool {
        let world = self.world.borrow();
        let is_fine = |member: &Member| {
            let socket = &world.sockets[member.index];
            member.has_collector || !socket.was_open_at_end
        };
        self.sockets.borrow().iter().all(is_fine)
    }

    /// Takes the sockets that the program still has.
    pub(crate) fn take_sockets(&self) -> Vec<(usize, AnySocket)> {
        let sockets = self.sockets.take();
        sockets.into_iter().filter_map(|member| Some((member.index, member.socket?))).collect()
    }

    pub(crate) fn forget_tasks(&self) {
        self.tasks.take();
    }
}
