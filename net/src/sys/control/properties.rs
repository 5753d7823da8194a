//! Properties of all control messages, whatever bytes the kernel writes. For `fuzz/`, and for a
//! test that replays its corpus.

use std::net::IpAddr;
use std::num::NonZeroU32;

use super::{
    ALIGNMENT, ControlBuffer, EcnCodepoint, HEADER_LEN, IpVersion, Message, Metadata,
    TrafficClasses, messages, segment_size,
};

/// Checks all properties for one input, which is the control messages.
///
/// # Panics
///
/// If a property does not hold.
pub(crate) fn hold(control: &[u8]) {
    // No message is shorter than its header.
    let limit = control.len() / HEADER_LEN;
    let found: Vec<Message<'_>> = messages(control).take(limit + 1).collect();
    assert!(found.len() <= limit, "{} messages in {} bytes", found.len(), control.len());
    each_lies_behind_the_one_before(control, &found);
    what_nobody_wrote_makes_no_difference(control, &found);
    what_is_cut_off_takes_nothing_else_along(control, &found);
    what_was_read_can_be_written(control);
    the_length_of_a_train_is_that_of_its_message(control, &found);
}

/// Where the data of a message is.
fn place(control: &[u8], message: &Message<'_>) -> std::ops::Range<usize> {
    let start = message.data.as_ptr().addr() - control.as_ptr().addr();
    start..start + message.data.len()
}

/// Each message has a separate header and separate data, inside the input and aligned.
fn each_lies_behind_the_one_before(control: &[u8], found: &[Message<'_>]) {
    let mut end: usize = 0;
    for message in found {
        let data = place(control, message);
        let header = data.start - HEADER_LEN;
        assert_eq!(header, end.next_multiple_of(ALIGNMENT), "a gap, or an overlap");
        assert!(data.end <= control.len(), "data outside of the input");
        let len = usize::from_ne_bytes(control[header..][..8].try_into().expect("8 bytes"));
        assert_eq!(data.len(), (len - HEADER_LEN).min(control.len() - data.start));
        end = data.end;
    }
}

/// The bytes between messages are stale. Whatever they are, the same messages are read.
fn what_nobody_wrote_makes_no_difference(control: &[u8], found: &[Message<'_>]) {
    let mut other: Vec<u8> = control.iter().map(|byte| !byte).collect();
    let mut end: usize = 0;
    for message in found {
        let data = place(control, message);
        let whole = data.start - HEADER_LEN..data.end;
        other[whole.clone()].copy_from_slice(&control[whole]);
        end = data.end;
    }
    // The bytes at which reading ended stay.
    let end = end.next_multiple_of(ALIGNMENT).min(control.len());
    other[end..].copy_from_slice(&control[end..]);
    assert!(messages(&other).eq(found.iter().copied()), "stale bytes change the messages");
    assert_eq!(Metadata::read(&other), Metadata::read(control), "stale bytes are exposed");
    assert_eq!(segment_size(&other), segment_size(control), "stale bytes are exposed");
}

/// If the input is cut anywhere, the messages before the cut are read as before.
fn what_is_cut_off_takes_nothing_else_along(control: &[u8], found: &[Message<'_>]) {
    let whole: Vec<usize> = found.iter().map(|message| place(control, message).end).collect();
    let cuts =
        whole.iter().flat_map(|&end| [end - 1, end, end + 1]).filter(|&cut| cut <= control.len());
    for cut in cuts {
        let left = messages(&control[..cut]).take(found.len());
        let whole = whole.iter().take_while(|&&end| end <= cut).count();
        assert!(left.take(whole).eq(found.iter().copied().take(whole)), "cut to {cut} bytes");
    }
}

/// The first message with a segment length counts, if the length is valid.
fn the_length_of_a_train_is_that_of_its_message(control: &[u8], found: &[Message<'_>]) {
    let told =
        |message: &&Message<'_>| (message.level, message.kind) == (libc::SOL_UDP, libc::UDP_GRO);
    let first = found.iter().find(told).and_then(|message| message.data.first_chunk());
    let size = first.map_or(0, |&bytes| i32::from_ne_bytes(bytes));
    let expected = (size > 0).then_some(size.unsigned_abs());
    assert_eq!(segment_size(control).map(NonZeroU32::get), expected, "the length of a train");
}

/// What was received with a datagram can be sent with one: writing and reading are consistent.
fn what_was_read_can_be_written(control: &[u8]) {
    let read = Metadata::read(control);
    let protocol = read.dst_ip.and_then(IpVersion::of_datagrams_to);
    let mut written = ControlBuffer::EMPTY;
    if let Some(ecn) = read.ecn {
        written.ecn(ecn, protocol, TrafficClasses::default());
    }
    if let Some(ip) = read.dst_ip {
        written.src_ip(ip, protocol);
    }
    let again = Metadata::read(written.bytes());
    assert_eq!(again.ecn, read.ecn);
    assert_eq!(again.ecn.map(|ecn| EcnCodepoint::from_bits(ecn as u8)), read.ecn.map(Some));
    match read.dst_ip {
        // The kernel chooses.
        Some(IpAddr::V6(ip)) if ip.is_unspecified() => assert_eq!(again.dst_ip, None),
        // When sending, the kernel takes the source address from `ipi_spec_dst`, in front of the
        // destination address that is read here.
        Some(IpAddr::V4(ip)) => {
            let info = messages(written.bytes()).last().expect("it was just written").data;
            assert_eq!(info[4..8], ip.octets());
        }
        Some(IpAddr::V6(_)) | None => assert_eq!(again.dst_ip, read.dst_ip),
    }
}

#[cfg(test)]
mod replay {
    include!("../../../../fuzz/replay.rs");

    #[test]
    fn they_hold_for_the_corpus_of_the_fuzzer_and_its_neighbours() {
        replay("control", super::hold);
    }
}
