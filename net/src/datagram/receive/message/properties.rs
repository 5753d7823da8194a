//! Properties of every message, whatever the kernel reports. For `fuzz/`, and for a test that
//! replays its corpus.

use std::num::NonZeroU32;
use std::ops::Range;

use ebbtide_runtime::buffer::{FilledBy, Pool};
use ebbtide_runtime::driver::{Filled, HEADER_LEN, Layout};

use super::super::contents::Contents;
use super::{ReceivedMessage, Unopened};

/// Payload capacity of the pool's buffers. It is small, so that messages may exceed a buffer.
const CAPACITY: usize = 512;

thread_local! {
    static POOL: Pool = Pool::new(2, CAPACITY, FilledBy::Driver).expect("there is memory");
}

/// Checks all properties for one input.
///
/// It consists of the space for the address and for control messages, the reported length, the
/// segment length of a train, and the bytes of the buffer.
///
/// # Panics
///
/// If a property does not hold.
pub(crate) fn hold(input: &[u8]) {
    let Some((&[name, control, len_low, len_high, segment], bytes)) = input.split_first_chunk()
    else {
        return;
    };
    // No more than the pool reserves in front of a payload.
    let layout = Layout::new(usize::from(name) % 129, usize::from(control) % 113);
    let len = usize::from(u16::from_le_bytes([len_low, len_high])) % (2 * CAPACITY);
    let bytes = &bytes[..bytes.len().min(CAPACITY)];

    if len < layout.payload_offset() {
        assert_eq!(Contents::find(bytes, len, layout), None, "{len} bytes are not the whole of it");
        return;
    }
    let message = pooled(bytes, 0, len, layout);
    what_is_exposed_was_written(&message, bytes, len, layout);
    stale_bytes_make_no_difference(&message, bytes, len, layout);
    a_copy_outside_the_pool_is_equal(message, bytes, len, layout);
    let segment = NonZeroU32::new(segment.into()).unwrap_or(NonZeroU32::MIN);
    the_datagrams_of_a_train_are_its_payload(bytes, len, layout, segment);
    POOL.with(|pool| assert_eq!(pool.free(), pool.count(), "a buffer was not returned"));
}

/// A message of `len` bytes, in a buffer that begins with `bytes` and is otherwise filled with
/// `stale`.
fn pooled(bytes: &[u8], stale: u8, len: usize, layout: Layout) -> ReceivedMessage {
    POOL.with(|pool| {
        let mut buffer = pool.take_free().expect("every test returns its buffers");
        buffer.fill(stale);
        buffer[..bytes.len()].copy_from_slice(bytes);
        let len = len as u32;
        let filled = Unopened::new(Filled { buffer: buffer.freeze(), len });
        let peeked = filled.peek(layout, CAPACITY);
        let message = filled.into_message(layout, CAPACITY);
        assert_eq!(exposed(&message), exposed(&peeked), "peeking shows another message");
        message
    })
}

/// The address, the control messages and the payload of a message, its original length, and whether
/// it is truncated.
fn exposed(message: &ReceivedMessage) -> (&[u8], &[u8], &[u8], usize, bool) {
    let payload = message.payload();
    (message.name(), message.control(), payload, message.original_len(), message.is_truncated())
}

/// A field of the header as the kernel wrote it. Missing bytes are zero.
fn field(bytes: &[u8], index: usize) -> usize {
    let mut field = [0; 4];
    for (byte, at) in field.iter_mut().zip(4 * index..) {
        *byte = bytes.get(at).copied().unwrap_or(0);
    }
    u32::from_ne_bytes(field) as usize
}

/// Where the kernel has written, according to the header: header, address, control messages,
/// payload.
fn written(bytes: &[u8], len: usize, layout: Layout) -> [Range<usize>; 4] {
    let name = HEADER_LEN;
    let control = name + layout.name();
    let payload = control + layout.control();
    let captured = (len.min(payload + CAPACITY) - payload).min(field(bytes, 2));
    [
        0..HEADER_LEN,
        name..name + field(bytes, 0).min(layout.name()),
        control..control + field(bytes, 1).min(layout.control()),
        payload..payload + captured,
    ]
}

/// Each part is exactly where the kernel wrote it. It has the reported length, clamped to the
/// reserved space and to the length of the completion.
fn what_is_exposed_was_written(
    message: &ReceivedMessage,
    bytes: &[u8],
    len: usize,
    layout: Layout,
) {
    let (name, control, payload, original, is_truncated) = exposed(message);
    let start = name.as_ptr().addr() - HEADER_LEN;
    let at = |part: &[u8]| part.as_ptr().addr() - start..part.as_ptr().addr() - start + part.len();
    let [_, expected_name, expected_control, expected_payload] = written(bytes, len, layout);
    assert_eq!(at(name), expected_name, "the address");
    assert_eq!(at(control), expected_control, "the control messages");
    assert_eq!(at(payload), expected_payload, "the payload");
    assert!(original >= payload.len(), "more was captured than was sent");
    assert_eq!(original, field(bytes, 2), "the length that was sent");
    assert!(is_truncated || original == payload.len(), "truncation was not reported");
}

/// Stale bytes of an earlier message are not visible: with other stale bytes, everything that is
/// exposed stays the same.
fn stale_bytes_make_no_difference(
    message: &ReceivedMessage,
    bytes: &[u8],
    len: usize,
    layout: Layout,
) {
    let mut other = [0xa5; CAPACITY + 256];
    let parts = written(bytes, len, layout);
    for part in parts {
        for at in part {
            if let Some(byte) = other.get_mut(at) {
                *byte = bytes.get(at).copied().unwrap_or(0);
            }
        }
    }
    let other = pooled(&other, 0x5a, len, layout);
    assert_eq!(exposed(&other), exposed(message), "stale bytes are exposed");
}

/// Moving a message out of the pool changes nothing, and returns its buffer.
fn a_copy_outside_the_pool_is_equal(
    message: ReceivedMessage,
    bytes: &[u8],
    len: usize,
    layout: Layout,
) {
    let mut copy = pooled(bytes, 0, len, layout);
    copy.leave_pool();
    assert!(message.is_pooled() && !copy.is_pooled());
    assert_eq!(exposed(&copy), exposed(&message), "the copy differs");
    drop(message);
    assert_eq!(POOL.with(Pool::free), 2, "the buffer was not returned");
    copy.claim();
    assert_eq!(POOL.with(Pool::free), 1, "a copy that the program holds is not counted");
}

/// The datagrams of a train are its payload, without gap or overlap, each of the segment length.
/// They have the same sender and the same control messages. This holds in the pool and outside of
/// it.
fn the_datagrams_of_a_train_are_its_payload(
    bytes: &[u8],
    len: usize,
    layout: Layout,
    segment: NonZeroU32,
) {
    let whole = pooled(bytes, 0, len, layout);
    for leaves_pool in [false, true] {
        let mut train = pooled(bytes, 0, len, layout);
        train.set_segment_size(segment);
        if leaves_pool {
            train.leave_pool();
        }
        let count = train.count();
        assert_eq!(train.stride(), whole.payload().len().min(segment.get() as usize));
        let mut datagrams = Vec::new();
        while let Some(datagram) = train.split_off_first() {
            datagrams.push(datagram);
        }
        datagrams.push(train);
        are_the_datagrams_of(&datagrams, count, &whole, segment);
    }
}

fn are_the_datagrams_of(
    datagrams: &[ReceivedMessage],
    count: usize,
    whole: &ReceivedMessage,
    segment: NonZeroU32,
) {
    assert_eq!(datagrams.len(), count, "the number of datagrams");
    let (name, control, payload, original, _) = exposed(whole);
    let expected = payload.chunks(segment.get() as usize);
    // An empty datagram counts as one.
    let expected = expected.chain(payload.is_empty().then_some(payload));
    assert!(datagrams.iter().map(ReceivedMessage::payload).eq(expected), "a datagram differs");
    assert!(datagrams.iter().all(|each| (each.name(), each.control()) == (name, control)));
    let sent: usize = datagrams.iter().map(ReceivedMessage::original_len).sum();
    assert_eq!(sent, original, "the lengths that were sent do not add up");
    let cut_off = datagrams.iter().filter(|each| each.is_truncated()).count();
    assert_eq!(cut_off, usize::from(whole.is_truncated()), "only the last can be cut off");
}

#[cfg(test)]
mod replay {
    include!("../../../../../fuzz/replay.rs");

    #[test]
    fn they_hold_for_the_corpus_of_the_fuzzer_and_its_neighbours() {
        replay("header", super::hold);
    }
}
