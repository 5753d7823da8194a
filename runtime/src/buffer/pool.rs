//! [`Pool`] and [`Buffer`]: who holds which buffer, and the way back.

// UNSAFETY: a buffer is a part of a block that the kernel writes the other parts of, which no slice
// of the whole block could express.
#![expect(unsafe_code, reason = "argued above")]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::rc::Rc;

use super::canary::{self, GAP};
use super::mapping::Mapping;
use super::ring::BufferRing;
use super::window::Window;
use crate::limits::BUFFER_OVERHEAD;

/// A block of buffers that are filled with datagrams.
///
/// Cheap to clone. The memory lives until the runtime has ended *and* the last [`Buffer`] is gone,
/// so that a datagram may outlive its runtime.
#[derive(Clone)]
pub struct Pool {
    memory: Rc<Memory>,
}

struct Memory {
    /// Free buffers that are not with the kernel. The one that came back last is used first: it is
    /// warm.
    shelf: RefCell<Vec<u16>>,
    /// Where the kernel takes from. `None` in a pool for a driver that reads by hand.
    ring: Option<Provided>,
    buffers: Mapping,
    /// Bytes of a buffer, which the kernel may write. The next one comes [`GAP`] bytes later.
    len: usize,
    /// Bytes of payload that a buffer is meant for.
    payload: usize,
    /// How many [`Buffer`]s share the buffer; 0 exactly when it is free.
    holders: Box<[Cell<u32>]>,
    /// How many of `holders` are 0.
    unheld: Cell<usize>,
    /// How many [`Spill`]s the program holds; each counts as if it were a buffer.
    claimed: Cell<usize>,
}

/// The free buffers that are with the kernel, which takes them as datagrams come.
struct Provided {
    ring: BufferRing,
    /// How many there are, as far as the completions collected so far tell.
    count: Cell<usize>,
    window: RefCell<Window>,
}

/// Which kind of driver a pool is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilledBy {
    /// The kernel fills buffers on its own: a ring.
    Kernel,
    /// The driver asks for a buffer and has it filled.
    Driver,
}

impl Pool {
    /// A pool of `count` buffers for payloads of `payload` bytes, all of them free.
    pub(crate) fn new(count: usize, payload: usize, filled_by: FilledBy) -> io::Result<Self> {
        let ring = match filled_by {
            FilledBy::Kernel => Some(Provided {
                ring: BufferRing::new(count)?,
                count: Cell::new(0),
                window: RefCell::new(Window::new(count)),
            }),
            FilledBy::Driver => None,
        };
        let last = u16::try_from(count).expect("the builder bounds the number of buffers");
        let len = (BUFFER_OVERHEAD + payload).next_multiple_of(BUFFER_OVERHEAD);
        let memory = Memory {
            // The first is on top.
            shelf: RefCell::new((0..last).rev().collect()),
            ring,
            buffers: Mapping::new((len + GAP) * count)?,
            len,
            payload,
            holders: vec![Cell::new(0); count].into_boxed_slice(),
            unheld: Cell::new(count),
            claimed: Cell::new(0),
        };
        if cfg!(debug_assertions) {
            (0..last).for_each(|id| memory.plant(id.into()));
        }
        let pool = Self { memory: Rc::new(memory) };
        pool.refill();
        Ok(pool)
    }

    /// How many buffers there are.
    pub fn count(&self) -> usize {
        self.memory.holders.len()
    }

    /// How many more datagrams can be received before the pool is full: the buffers that are with
    /// the kernel, as far as the completions collected so far tell, less the datagrams that the
    /// program holds outside the pool.
    #[inline]
    pub fn free(&self) -> usize {
        self.memory.unheld.get().saturating_sub(self.memory.claimed.get())
    }

    /// Gives the kernel as many free buffers as it is to have. To be called before it is entered.
    pub(crate) fn refill(&self) {
        let Some(provided) = &self.memory.ring else { return };
        let missing = provided.window.borrow_mut().refill(provided.count.get());
        let mut shelf = self.memory.shelf.borrow_mut();
        let count = missing.min(shelf.len());
        if count == 0 {
            return;
        }
        let len = u32::try_from(self.memory.len).expect("the builder bounds buffers");
        // The warmest last on the shelf, first to the kernel.
        let rest = shelf.len() - count;
        let buffers = shelf.drain(rest..).rev();
        provided.ring.give(
            len,
            buffers.map(|id| (self.memory.address(id.into()).expose_provenance() as u64, id)),
        );
        provided.count.set(provided.count.get() + count);
    }

    /// The kernel has run out of buffers: it gets more, if there are any.
    pub(crate) fn ran_out(&self) {
        if let Some(provided) = &self.memory.ring
            && !self.memory.shelf.borrow().is_empty()
        {
            provided.window.borrow_mut().widen();
        }
    }

    /// Takes the buffer `id`, which a completion said that the kernel has filled.
    #[inline]
    pub(crate) fn take(&self, id: u16) -> Parked {
        if let Some(provided) = &self.memory.ring {
            provided.count.set(provided.count.get() - 1);
        }
        self.lend(id)
    }

    /// The buffer of `parked`, to be held from now on.
    #[inline]
    pub(crate) fn unpark(&self, parked: Parked) -> Buffer {
        Buffer { memory: Rc::clone(&self.memory), id: parked.id }
    }

    /// What lies in a parked buffer.
    #[inline]
    pub(crate) fn bytes(&self, parked: &Parked) -> &[u8] {
        self.memory.bytes(parked.id)
    }

    /// Another share in a parked buffer.
    pub(crate) fn share(&self, parked: &Parked) -> Buffer {
        let holders = &self.memory.holders[parked.id as usize];
        holders.set(holders.get() + 1);
        Buffer { memory: Rc::clone(&self.memory), id: parked.id }
    }

    /// Bytes of payload that a buffer is meant for.
    #[inline]
    pub fn payload_capacity(&self) -> usize {
        self.memory.payload
    }

    #[inline]
    fn lend(&self, id: u16) -> Parked {
        let holders = self.memory.holders.get(usize::from(id));
        let holders = holders.expect("the kernel names only buffers that it was given");
        assert!(holders.replace(1) == 0, "buffer {id} was filled while it was held");
        self.memory.unheld.set(self.memory.unheld.get() - 1);
        Parked { id: id.into() }
    }

    /// Takes a free buffer that the kernel does not have, to fill it by hand. `None` when there is
    /// none.
    pub(crate) fn take_free(&self) -> Option<Buffer> {
        if self.free() == 0 {
            return None;
        }
        let id = self.memory.shelf.borrow_mut().pop();
        id.map(|id| self.unpark(self.lend(id)))
    }

    /// The ring that the kernel takes from.
    pub(crate) fn ring(&self) -> Option<&BufferRing> {
        self.memory.ring.as_ref().map(|provided| &provided.ring)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("count", &self.count()).field("free", &self.free()).finish()
    }
}

impl Memory {
    /// What lies in a buffer that is held.
    #[inline]
    fn bytes(&self, id: u32) -> &[u8] {
        // SAFETY: the bytes are mapped as long as `self` lives and were zeroed when mapped. The
        // kernel writes them again only after the last share was dropped, and a share with others
        // beside it is never written to: see `deref_mut`.
        unsafe { std::slice::from_raw_parts(self.address(id), self.len) }
    }

    #[inline]
    fn address(&self, id: u32) -> *mut u8 {
        let offset = id as usize * (self.len + GAP);
        assert!(offset + self.len + GAP <= self.buffers.len());
        // SAFETY: the offset lies inside the mapping, as just asserted.
        unsafe { self.buffers.start().as_ptr().add(offset) }
    }

    /// Where the gap behind a buffer starts.
    fn gap(&self, id: u32) -> *mut [u8; GAP] {
        // SAFETY: the buffer and the gap behind it lie inside the mapping, as `address` asserts.
        unsafe { self.address(id).add(self.len).cast() }
    }

    /// Before anybody else has the memory.
    fn plant(&self, id: u32) {
        // SAFETY: mapped and zeroed, and nobody else's: no buffer reaches into the gap.
        canary::plant(unsafe { &mut *self.gap(id) });
    }

    /// Looks whether a buffer was written to past its end, in debug builds.
    #[inline]
    fn check(&self, id: u32) {
        if cfg!(debug_assertions) {
            // SAFETY: mapped as long as `self` lives, and written by `plant` alone, before the
            // kernel or a `Buffer` had any of it: no buffer reaches into the gap.
            canary::check(id, unsafe { &*self.gap(id) });
        }
    }
}

impl Drop for Memory {
    /// The buffers that were never filled have not been looked at.
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            (0..self.holders.len()).for_each(|id| self.check(id as u32));
        }
    }
}

/// A held buffer without its pool, as small as can be, for an inbox to keep. It has no destructor:
/// whoever drops it instead of handing it to [`Pool::unpark`] keeps the buffer from the pool.
#[derive(Debug)]
#[must_use]
pub(crate) struct Parked {
    id: u32,
}

/// One filled buffer, or a share in it. Goes back to the pool when all shares are dropped.
pub struct Buffer {
    memory: Rc<Memory>,
    /// As wide as its neighbours, so that it moves in a register.
    id: u32,
}

impl Buffer {
    /// Another share in the same buffer.
    pub(crate) fn share(&self) -> Self {
        self.holders().set(self.holders().get() + 1);
        Self { memory: Rc::clone(&self.memory), id: self.id }
    }

    #[inline]
    fn holders(&self) -> &Cell<u32> {
        &self.memory.holders[self.id as usize]
    }

    /// Gives the pool up, for [`Pool::unpark`] to find again.
    pub(crate) fn park(self) -> Parked {
        let buffer = ManuallyDrop::new(self);
        // SAFETY: read once, from a buffer that is neither used nor dropped afterwards.
        drop(unsafe { ptr::read(&raw const buffer.memory) });
        Parked { id: buffer.id }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.memory.bytes(self.id)
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        assert_eq!(self.holders().get(), 1, "a shared buffer is only read");
        let memory = &self.memory;
        // SAFETY: as in `bytes`; and `&mut self` is the only way to this buffer's bytes, because
        // there is no other share.
        unsafe { std::slice::from_raw_parts_mut(memory.address(self.id), memory.len) }
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        let left = self.holders().get() - 1;
        self.holders().set(left);
        if left == 0 {
            self.memory.check(self.id);
            self.memory.unheld.set(self.memory.unheld.get() + 1);
            self.memory.shelf.borrow_mut().push(self.id as u16);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Memory that one or more messages lie in outside the pool, or a share in it.
///
/// A message that had to leave its buffer takes nothing from the pool while it waits in an inbox.
/// Once the program holds it, it counts as a buffer: what a program holds is bounded by the pool,
/// wherever it lies.
pub(crate) struct Outside {
    shared: Rc<Spilled>,
}

struct Spilled {
    bytes: Box<[u8]>,
    /// The pool that it counts against. `None` for what was never in it: a direct read.
    memory: Option<Rc<Memory>>,
    holder: Cell<Holder>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Inbox,
    Program,
}

impl Buffer {
    /// A place outside the pool for `bytes`, which were in this buffer.
    pub(crate) fn spill(&self, bytes: Box<[u8]>) -> Outside {
        Outside::new(bytes, Some(Rc::clone(&self.memory)))
    }
}

impl Outside {
    /// A place for what was read past the pool.
    pub(crate) fn direct(bytes: Box<[u8]>) -> Self {
        Self::new(bytes, None)
    }

    fn new(bytes: Box<[u8]>, memory: Option<Rc<Memory>>) -> Self {
        let holder = Cell::new(Holder::Inbox);
        Self { shared: Rc::new(Spilled { bytes, memory, holder }) }
    }

    /// Another share in the same message.
    pub(crate) fn share(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }

    /// The program holds it, or a share in it, from now on.
    pub(crate) fn claim(&self) {
        if self.shared.holder.replace(Holder::Program) == Holder::Inbox
            && let Some(memory) = &self.shared.memory
        {
            memory.claimed.set(memory.claimed.get() + 1);
        }
    }
}

impl Deref for Outside {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.shared.bytes
    }
}

impl Drop for Spilled {
    fn drop(&mut self) {
        if let (Holder::Program, Some(memory)) = (self.holder.get(), &self.memory) {
            memory.claimed.set(memory.claimed.get() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    fn held(pool: &Pool, id: u16) -> Buffer {
        pool.unpark(pool.take(id))
    }

    #[test]
    fn a_parked_buffer_stays_held() {
        let pool = Pool::new(1, 100, FilledBy::Driver).unwrap();
        let parked = pool.take_free().unwrap().park();
        assert!(pool.take_free().is_none());
        let share = pool.share(&parked);
        drop(pool.unpark(parked));
        assert!(pool.take_free().is_none());
        drop(share);
        assert!(pool.take_free().is_some());
    }

    #[test]
    fn a_dropped_buffer_is_free_again() {
        let pool = Pool::new(4, 100, FilledBy::Kernel).unwrap();
        assert_eq!((pool.count(), pool.free()), (4, 4));
        let first = held(&pool, 2);
        let second = held(&pool, 0);
        assert_eq!(pool.free(), 2);
        drop(first);
        assert_eq!(pool.free(), 3);
        drop(second);
        assert_eq!(pool.free(), 4);
    }

    #[test]
    fn a_pool_filled_by_hand_lends_each_buffer_once() {
        let pool = Pool::new(2, 100, FilledBy::Driver).unwrap();
        let mut first = pool.take_free().unwrap();
        let mut second = pool.take_free().unwrap();
        first.fill(1);
        second.fill(2);
        assert!(pool.take_free().is_none());
        assert!(first.iter().all(|&byte| byte == 1) && second.iter().all(|&byte| byte == 2));
        drop(first);
        assert!(pool.take_free().is_some());
    }

    #[test]
    fn a_shared_buffer_is_free_when_the_last_share_is_gone() {
        let pool = Pool::new(1, 100, FilledBy::Driver).unwrap();
        let buffer = pool.take_free().unwrap();
        let share = buffer.share();
        drop(buffer);
        assert!(pool.take_free().is_none());
        drop(share);
        assert!(pool.take_free().is_some());
    }

    #[test]
    #[should_panic(expected = "a shared buffer is only read")]
    fn a_shared_buffer_is_never_written_to() {
        let pool = Pool::new(1, 100, FilledBy::Driver).unwrap();
        let mut buffer = pool.take_free().unwrap();
        let _share = buffer.share();
        buffer[0] = 1;
    }

    #[test]
    #[should_panic(expected = "buffer 1 was filled while it was held")]
    fn a_buffer_is_never_in_two_hands() {
        let pool = Pool::new(2, 100, FilledBy::Kernel).unwrap();
        let _held = held(&pool, 1);
        let _again = held(&pool, 1);
    }

    #[test]
    fn a_spilled_message_counts_as_a_buffer_while_the_program_holds_it() {
        let pool = Pool::new(2, 100, FilledBy::Kernel).unwrap();
        let buffer = held(&pool, 0);
        let spill = buffer.spill(buffer[..10].into());
        drop(buffer);
        assert_eq!(pool.free(), 2);
        spill.claim();
        spill.claim();
        assert_eq!(pool.free(), 1);
        drop(spill);
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let pool = Pool::new(2, 100, FilledBy::Kernel).unwrap();
        let buffer = held(&pool, 1);
        drop(pool);
        assert!(buffer.iter().all(|&byte| byte == 0));
        assert!(buffer.len() >= 100 + BUFFER_OVERHEAD);
    }

    /// Runs `body` in a process of its own, this test started again alone, which `body` ends by an
    /// abort. Gives what it said.
    fn said_before_it_aborted(test: &str, body: impl FnOnce()) -> String {
        const CHILD: &str = "EBBTIDE_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            body();
            panic!("it was to abort");
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args([test, "--exact"]).env(CHILD, "").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}: {said}", output.status);
        said
    }

    fn write_past(pool: &Pool, id: u16, at: usize) {
        // SAFETY: the gap is mapped, and no buffer reaches into it.
        unsafe { (*pool.memory.gap(id.into()))[at] = 7 };
    }

    /// Fails when nobody looks behind a buffer that comes back.
    #[test]
    #[cfg_attr(
        any(miri, not(debug_assertions)),
        ignore = "there are canaries in debug builds only"
    )]
    fn a_byte_past_a_buffer_is_told_when_the_buffer_comes_back() {
        let name = "buffer::pool::tests::a_byte_past_a_buffer_is_told_when_the_buffer_comes_back";
        let said = said_before_it_aborted(name, || {
            let pool = Pool::new(3, 100, FilledBy::Kernel).unwrap();
            let buffer = held(&pool, 1);
            let share = buffer.share();
            write_past(&pool, 1, 0);
            drop(buffer);
            // What the end of the pool would find does not count.
            let _never_ended = ManuallyDrop::new(pool);
            drop(share);
        });
        assert!(said.contains("the memory behind buffer 1 of a pool was written to"), "{said}");
        assert!(said.contains("from byte 0 to byte 0 past its end"), "{said}");
        assert!(said.contains(name), "{said}");
    }

    /// Fails when nobody looks behind the buffers that were never filled.
    #[test]
    #[cfg_attr(
        any(miri, not(debug_assertions)),
        ignore = "there are canaries in debug builds only"
    )]
    fn a_byte_past_a_buffer_is_told_when_the_pool_goes() {
        let name = "buffer::pool::tests::a_byte_past_a_buffer_is_told_when_the_pool_goes";
        let said = said_before_it_aborted(name, || {
            let pool = Pool::new(3, 100, FilledBy::Driver).unwrap();
            write_past(&pool, 2, 63);
            drop(pool);
        });
        assert!(said.contains("the memory behind buffer 2 of a pool was written to"), "{said}");
    }

    /// Fails when the gap is taken for a part of the buffer.
    #[test]
    fn a_buffer_may_be_filled_to_its_last_byte() {
        let pool = Pool::new(2, 100, FilledBy::Driver).unwrap();
        let mut buffers = [pool.take_free().unwrap(), pool.take_free().unwrap()];
        for buffer in &mut buffers {
            assert_eq!(buffer.len(), 2 * BUFFER_OVERHEAD);
            buffer.fill(7);
        }
    }

    #[test]
    fn buffers_of_the_default_size_start_in_different_cache_sets() {
        let pool = Pool::new(16, 65_536, FilledBy::Kernel).unwrap();
        let sets: std::collections::HashSet<usize> =
            (0..16).map(|id| pool.memory.address(id).addr() % 4096).collect();
        assert_eq!(sets.len(), 16);
    }
}
