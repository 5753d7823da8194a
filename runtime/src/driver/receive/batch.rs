//! [`Batch`]: buffers that one receive has filled, for its sink.

use std::slice;

use crate::buffer::Share;

/// A buffer of the pool that was filled, according to a completion.
#[derive(Debug)]
#[must_use]
pub struct Filled {
    /// The buffer.
    pub buffer: Share,
    /// How many bytes were filled, including the header.
    pub len: u32,
}

/// Consecutive messages of one receive.
#[derive(Debug)]
pub struct Batch<'a> {
    filled: slice::IterMut<'a, Option<Filled>>,
}

impl<'a> Batch<'a> {
    #[inline]
    pub(in crate::driver) fn new(filled: &'a mut [Option<Filled>]) -> Self {
        Self { filled: filled.iter_mut() }
    }
}

impl Iterator for Batch<'_> {
    type Item = Filled;

    #[inline]
    fn next(&mut self) -> Option<Filled> {
        self.filled.next()?.take()
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.filled.size_hint()
    }
}

impl ExactSizeIterator for Batch<'_> {}
