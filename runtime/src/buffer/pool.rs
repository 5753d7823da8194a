//! [`Pool`] and [`Buffer`]: the block of buffers, which of them are free, and how they return.

// UNSAFETY: shares keep the memory alive through a raw pointer, and may be all that keeps it alive,
// so the memory may be freed while a buffer is returned to it.
#![expect(unsafe_code, reason = "argued above")]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::rc::Rc;

use super::block::Block;
use super::record::{Note, Origin, Share, Unpooled};
use super::ring::BufferRing;
use super::window::Window;
use crate::limits::BUFFER_OVERHEAD;

/// A block of buffers that datagrams are received into.
///
/// Cheap to clone. The memory lives until the runtime has ended *and* the last datagram in it was
/// dropped, so a datagram may outlive its runtime.
#[derive(Clone)]
pub struct Pool {
    memory: Rc<Memory>,
}

pub(super) struct Memory {
    /// Free buffers that the kernel does not have. The last one to return is used first: it is warm
    /// in the cache.
    shelf: RefCell<Vec<u16>>,
    /// The ring that the kernel takes buffers from. `None` for a driver that fills buffers
    /// directly.
    ring: Option<Provided>,
    block: Block,
    /// Bytes of payload that a buffer has to fit.
    payload: usize,
    /// How many buffers have no share.
    unheld: Cell<usize>,
    /// How many messages the program has that were moved out of their buffers. Each counts as a
    /// buffer.
    claimed: Cell<usize>,
    /// How many messages the program has that were read without the pool.
    held_unpooled: Cell<usize>,
    /// Keeps the block alive while buffers have shares: `Some` exactly while any has.
    own: Cell<Option<Rc<Memory>>>,
}

/// The free buffers that the kernel has. It takes them as datagrams arrive.
struct Provided {
    ring: BufferRing,
    /// How many there are, according to the completions collected so far.
    count: Cell<usize>,
    window: RefCell<Window>,
}

/// Who fills the buffers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilledBy {
    /// The kernel fills buffers on its own: io_uring.
    Kernel,
    /// The driver takes a buffer and has it filled: epoll.
    Driver,
}

impl Pool {
    /// Makes a pool of `count` free buffers for payloads of `payload` bytes.
    ///
    /// # Errors
    ///
    /// Those of mmap(2).
    pub fn new(count: usize, payload: usize, filled_by: FilledBy) -> io::Result<Self> {
        let ring = match filled_by {
            FilledBy::Kernel => Some(Provided {
                ring: BufferRing::new(count)?,
                count: Cell::new(0),
                window: RefCell::new(Window::new(count)),
            }),
            FilledBy::Driver => None,
        };
        let ids = u16::try_from(count).expect("the builder bounds the number of buffers");
        let len = (BUFFER_OVERHEAD + payload).next_multiple_of(BUFFER_OVERHEAD);
        let (records, buffers) = Block::map(count, len)?;
        let memory = Rc::new_cyclic(|memory| Memory {
            // The first buffer is on top.
            shelf: RefCell::new((0..ids).rev().collect()),
            ring,
            block: Block::new(records, buffers, ids, len, memory),
            payload,
            unheld: Cell::new(count),
            claimed: Cell::new(0),
            held_unpooled: Cell::new(0),
            own: Cell::default(),
        });
        let pool = Self { memory };
        pool.refill();
        Ok(pool)
    }

    /// How many buffers there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.memory.block.count()
    }

    /// How many more datagrams can be received before the pool is full.
    ///
    /// These are the buffers without shares, according to the completions collected so far, less
    /// the datagrams that the program has outside the pool.
    #[inline]
    #[must_use]
    pub fn free(&self) -> usize {
        self.free_but_for(0)
    }

    /// [`free`](Self::free), if `held` of the buffers with shares had none.
    #[inline]
    #[must_use]
    pub fn free_but_for(&self, held: usize) -> usize {
        (self.memory.unheld.get() + held).saturating_sub(self.memory.claimed.get())
    }

    /// How many messages are in inboxes and in the program. Those outside the pool count only in
    /// the program.
    pub(crate) fn held(&self) -> usize {
        let Memory { unheld, claimed, held_unpooled, .. } = &*self.memory;
        self.count() - unheld.get() + claimed.get() + held_unpooled.get()
    }

    /// Makes a share of bytes that were read without the pool: those at `range` of `bytes`, which
    /// other shares may use, too.
    #[must_use]
    pub fn unpooled(&self, bytes: &Rc<Box<[u8]>>, range: Range<usize>, note: Note) -> Share {
        let memory = Rc::clone(&self.memory);
        let unpooled = Unpooled::new(Rc::clone(bytes), memory, Origin::DirectRead);
        Share::unpooled(unpooled, range, note)
    }

    /// Passes free buffers to the kernel, as many as it should have. Called before the kernel is
    /// entered.
    pub(crate) fn refill(&self) {
        let Some(provided) = &self.memory.ring else { return };
        let missing = provided.window.borrow_mut().refill(provided.count.get());
        let mut shelf = self.memory.shelf.borrow_mut();
        let count = missing.min(shelf.len());
        if count == 0 {
            return;
        }
        let block = &self.memory.block;
        let len = u32::try_from(block.len).expect("the builder bounds buffers");
        // The warmest buffer is the last on the shelf, and the first for the kernel.
        let rest = shelf.len() - count;
        let buffers = shelf.drain(rest..).rev();
        let address = |id: u16| block.buffer(id).as_ptr().expose_provenance();
        provided.ring.give(len, buffers.map(|id| (address(id) as u64, id)));
        provided.count.set(provided.count.get() + count);
    }

    /// Takes all buffers back from the kernel, also those whose completion was lost. The ring of
    /// buffers must not be registered.
    pub(crate) fn take_all_back(&self) {
        let Some(provided) = &self.memory.ring else { return };
        provided.ring.reset();
        provided.count.set(0);
        let block = &self.memory.block;
        let ids =
            0..u16::try_from(block.count()).expect("the builder bounds the number of buffers");
        let free = ids.rev().filter(|id| !block.record(*id).is_held());
        self.memory.shelf.replace(free.collect());
    }

    /// The kernel has run out of buffers: from now on it gets more, if there are any.
    pub(crate) fn ran_out(&self) {
        if let Some(provided) = &self.memory.ring
            && !self.memory.shelf.borrow().is_empty()
        {
            provided.window.borrow_mut().widen();
        }
    }

    /// Takes the buffer `id`, which the kernel has filled according to a completion.
    #[inline]
    pub(crate) fn take(&self, id: u16) -> Share {
        if let Some(provided) = &self.memory.ring {
            provided.count.set(provided.count.get() - 1);
        }
        self.lend(id)
    }

    /// Bytes of payload that a buffer has to fit.
    #[inline]
    #[must_use]
    pub fn payload_capacity(&self) -> usize {
        self.memory.payload
    }

    #[inline]
    fn lend(&self, id: u16) -> Share {
        let memory = &self.memory;
        let share = memory.block.record(id).lend();
        let unheld = memory.unheld.get();
        if unheld == memory.block.count() {
            memory.own.set(Some(Rc::clone(memory)));
        }
        memory.unheld.set(unheld - 1);
        share
    }

    /// Takes a free buffer that the kernel does not have, to fill it directly. `None` if there is
    /// none.
    #[must_use]
    pub fn take_free(&self) -> Option<Buffer> {
        if self.free() == 0 {
            return None;
        }
        let id = self.memory.shelf.borrow_mut().pop()?;
        Some(Buffer { share: self.lend(id) })
    }

    /// The ring of buffers that the kernel takes from.
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
    /// Takes the buffer `id` back when its last share was dropped. If no buffer has shares and the
    /// pool was dropped, the memory is freed.
    ///
    /// # Safety
    ///
    /// The buffer had a share until now, and there is no reference into the memory.
    #[inline]
    pub(super) unsafe fn take_back(memory: NonNull<Self>, id: u16) {
        let own = {
            // SAFETY: the buffer had a share until now, and the memory keeps itself alive while one
            // has.
            let memory = unsafe { memory.as_ref() };
            memory.block.check(id);
            memory.shelf.borrow_mut().push(id);
            let unheld = memory.unheld.get() + 1;
            memory.unheld.set(unheld);
            if unheld < memory.block.count() {
                return;
            }
            memory.own.take()
        };
        drop(own);
    }

    /// Another reference to the memory, for a share of one of its buffers.
    pub(super) fn share(&self) -> Rc<Self> {
        let own = self.own.take();
        let share = own.clone();
        self.own.set(own);
        share.expect("it keeps itself while a buffer is held")
    }

    fn held_outside(&self, origin: Origin) -> &Cell<usize> {
        match origin {
            Origin::Buffer => &self.claimed,
            Origin::DirectRead => &self.held_unpooled,
        }
    }

    /// The program has taken a message outside the pool.
    pub(super) fn claim(&self, origin: Origin) {
        let count = self.held_outside(origin);
        count.set(count.get() + 1);
    }

    /// The program has dropped a message outside the pool.
    pub(super) fn release_claim(&self, origin: Origin) {
        let count = self.held_outside(origin);
        count.set(count.get() - 1);
    }
}

/// A buffer that its only owner fills. It returns to the pool when it is dropped.
pub struct Buffer {
    share: Share,
}

impl Buffer {
    /// Ends the filling. From now on the buffer is only read.
    #[must_use]
    pub fn freeze(self) -> Share {
        self.share
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.share.bytes()
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.share.bytes_mut()
    }
}

#[cfg(test)]
mod tests {
    use std::mem::ManuallyDrop;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_dropped_buffer_is_free_again() {
        let pool = Pool::new(4, 100, FilledBy::Kernel).unwrap();
        assert_eq!((pool.count(), pool.free()), (4, 4));
        let first = pool.take(2);
        let second = pool.take(0);
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
        let buffer = pool.take_free().unwrap().freeze();
        let share = buffer.clone();
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
        let _share = buffer.share.clone();
        buffer[0] = 1;
    }

    #[test]
    #[should_panic(expected = "buffer 1 was filled while it was held")]
    fn a_buffer_is_never_in_two_hands() {
        let pool = Pool::new(2, 100, FilledBy::Kernel).unwrap();
        let _held = pool.take(1);
        let _again = pool.take(1);
    }

    /// Copies 16 bytes.
    fn copy_16(bytes: &[u8], copy: &mut Vec<u8>) -> Note {
        copy.extend_from_slice(&bytes[..16]);
        Note::default()
    }

    #[test]
    fn a_message_outside_counts_as_a_buffer_while_the_program_holds_it() {
        let pool = Pool::new(2, 100, FilledBy::Kernel).unwrap();
        let message = pool.take(0).copied_out(copy_16).unwrap();
        assert_eq!(pool.free(), 2);
        for _ in 0..2 {
            message.claim();
            assert_eq!(pool.free(), 1);
        }
        drop(message);
        assert_eq!(pool.free(), 2);
    }

    /// Fails when shares do not keep the memory alive, or when they keep it for ever.
    #[test]
    fn a_buffer_outlives_its_pool() {
        let pool = Pool::new(3, 100, FilledBy::Kernel).unwrap();
        drop(pool.take(1));
        let held = [pool.take(2), pool.take(0)];
        let memory = Rc::downgrade(&pool.memory);
        drop(pool);
        for buffer in held {
            assert_eq!(memory.strong_count(), 1);
            assert!(buffer.bytes().iter().all(|&byte| byte == 0));
            assert!(buffer.bytes().len() >= 100 + BUFFER_OVERHEAD);
        }
        assert_eq!(memory.strong_count(), 0);
    }

    /// Fails when a message outside the pool needs the memory of the pool, or keeps it for ever.
    #[test]
    fn a_message_outside_outlives_its_pool() {
        let pool = Pool::new(1, 100, FilledBy::Kernel).unwrap();
        let message = pool.take(0).copied_out(copy_16).unwrap();
        let part = message.part(message.note());
        let memory = Rc::downgrade(&pool.memory);
        drop((pool, message));
        part.claim();
        assert_eq!(part.bytes().len(), 16);
        drop(part);
        assert_eq!(memory.strong_count(), 0);
    }

    /// Runs `body` in another process, which runs only this test. `body` aborts that process.
    /// Returns its output.
    fn said_before_it_aborted(test: &str, body: impl FnOnce()) -> String {
        const CHILD: &str = "EBBTIDE_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            body();
            panic!("the body has to abort");
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args([test, "--exact"]).env(CHILD, "").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}: {said}", output.status);
        said
    }

    fn write_past(pool: &Pool, id: u16, at: usize) {
        // SAFETY: the gap is mapped, and no buffer reaches into it.
        unsafe { (*pool.memory.block.gap(id))[at] = 7 };
    }

    /// Fails when the gap is not checked when a buffer returns.
    #[test]
    #[cfg_attr(
        any(miri, not(debug_assertions)),
        ignore = "there are canaries in debug builds only"
    )]
    fn a_byte_past_a_buffer_is_told_when_the_buffer_comes_back() {
        let name = "buffer::pool::tests::a_byte_past_a_buffer_is_told_when_the_buffer_comes_back";
        let said = said_before_it_aborted(name, || {
            let pool = Pool::new(3, 100, FilledBy::Kernel).unwrap();
            let buffer = pool.take(1);
            let share = buffer.clone();
            write_past(&pool, 1, 0);
            drop(buffer);
            // What the end of the pool would report does not count.
            let _never_ended = ManuallyDrop::new(pool);
            drop(share);
        });
        assert!(said.contains("the memory behind buffer 1 of a pool was written to"), "{said}");
        assert!(said.contains("from byte 0 to byte 0 past its end"), "{said}");
        assert!(said.contains(name), "{said}");
    }

    /// Fails when the gaps after buffers that were never filled are not checked.
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

    /// Fails when the gap is used as a part of the buffer.
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
            (0..16).map(|id| pool.memory.block.buffer(id).addr().get() % 4096).collect();
        assert_eq!(sets.len(), 16);
    }
}
