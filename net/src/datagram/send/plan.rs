//! [`Transmit`], which is what to send, and the plan: how several transmits become as few messages
//! to the kernel as possible. Pure.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use crate::sys::address::RawAddress;
use crate::sys::control::{ControlBuffer, EcnCodepoint, IpVersion, TrafficClasses};
use crate::sys::message::Message;

/// The most datagrams in a GSO message: the kernel's limit before Linux 6.10, which doubled it
/// (docs/kernel.md, K-GSO-1).
const MAX_SEGMENTS: usize = 64;

/// The most payload bytes in a GSO message: what fits into an IPv4 datagram.
const MAX_BYTES: usize = 65_507;

/// One datagram to be sent, or several of one length: see [`segment_size`](Self::segment_size).
///
/// [`UdpSocket::transmit`](crate::UdpSocket::transmit) sends one transmit, and
/// [`UdpSocket::send_batch`](crate::UdpSocket::send_batch) several. The names are those of
/// quinn-udp.
///
/// ```
/// # ebbtide::run(async {
/// use ebbtide::net::{EcnCodepoint, Transmit, UdpSocket};
///
/// let server = UdpSocket::bind("127.0.0.1:0")?;
/// let client = UdpSocket::bind("127.0.0.1:0")?;
/// let two = Transmit::to(b"onetwo", server.local_addr()?).segment_size(3);
/// client.transmit(two.ecn(EcnCodepoint::Ect0)).await?;
/// assert_eq!(&server.recv().await?.expect("not drained")[..], b"one");
/// assert_eq!(&server.recv().await?.expect("not drained")[..], b"two");
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Transmit<'a> {
    contents: &'a [u8],
    destination: Option<SocketAddr>,
    segment_size: Option<usize>,
    ecn: Option<EcnCodepoint>,
    src_ip: Option<IpAddr>,
}

impl<'a> Transmit<'a> {
    /// Sends `contents` to the connected peer.
    pub fn new(contents: &'a [u8]) -> Self {
        Self { contents, destination: None, segment_size: None, ecn: None, src_ip: None }
    }

    /// Sends `contents` to `destination`.
    pub fn to(contents: &'a [u8], destination: SocketAddr) -> Self {
        Self { destination: Some(destination), ..Self::new(contents) }
    }

    /// Sends the contents as datagrams of `bytes` bytes each, of which the last may be shorter.
    ///
    /// The kernel cuts them, as late as possible (UDP GSO, Linux 4.18). It costs a fraction of
    /// sending each separately. Where the device or the route cannot cut them, they are sent one by
    /// one. 0 means one datagram, the default.
    pub fn segment_size(mut self, bytes: usize) -> Self {
        self.segment_size = Some(bytes).filter(|&bytes| bytes > 0);
        self
    }

    /// Sets the explicit congestion notification (ECN). The rest of the traffic class is that of
    /// the socket: [`UdpSocket::set_tos_v4`](crate::UdpSocket::set_tos_v4),
    /// [`set_tclass_v6`](crate::UdpSocket::set_tclass_v6).
    pub fn ecn(mut self, ecn: EcnCodepoint) -> Self {
        self.ecn = Some(ecn);
        self
    }

    /// Sets the source address, which must be one of this host. By default, or if `ip` is
    /// unspecified, the kernel chooses. An IPv4 address and its mapped IPv6 address are equivalent.
    ///
    /// The send fails with `EINVAL` if no interface has the address, or if the datagram leaves by
    /// the other protocol.
    pub fn src_ip(mut self, ip: IpAddr) -> Self {
        self.src_ip = Some(ip);
        self
    }

    #[cfg(test)]
    pub(super) fn contents(&self) -> &'a [u8] {
        self.contents
    }

    /// The destination. `None` for the connected peer.
    pub(super) fn destination(&self) -> Option<SocketAddr> {
        self.destination
    }

    /// Sets the source address unless the transmit has one.
    pub(super) fn with_source(self, source: Option<IpAddr>) -> Self {
        Self { src_ip: self.src_ip.or(source), ..self }
    }

    /// The length of the contents.
    pub(crate) fn len(&self) -> usize {
        self.contents.len()
    }

    /// The length of each datagram but the last.
    fn stride(&self) -> usize {
        self.segment_size.unwrap_or(usize::MAX).min(self.len())
    }

    /// Whether it is one datagram.
    fn is_single(&self) -> bool {
        self.stride() == self.len()
    }

    /// The contents and the destination, if they are all that the kernel has to know.
    pub(super) fn as_plain(&self) -> Option<(&'a [u8], Option<SocketAddr>)> {
        let is_plain = self.is_single() && self.ecn.is_none() && self.src_ip.is_none();
        is_plain.then_some((self.contents, self.destination))
    }

    /// Whether both have the same parameters, so that only their contents differ.
    fn goes_with(&self, other: &Self) -> bool {
        (self.destination, self.ecn, self.src_ip) == (other.destination, other.ecn, other.src_ip)
    }

    /// The protocol by which it leaves. `None` if only the kernel knows, because it goes to the
    /// connected peer.
    fn protocol(&self) -> Option<IpVersion> {
        IpVersion::of_datagrams_to(self.destination?.ip())
    }

    fn control(&self, segment_size: Option<u16>, classes: TrafficClasses) -> ControlBuffer {
        let mut control = ControlBuffer::EMPTY;
        if let Some(size) = segment_size {
            control.segment_size(size);
        }
        if let Some(ecn) = self.ecn {
            control.ecn(ecn, self.protocol(), classes);
        }
        if let Some(ip) = self.src_ip {
            control.src_ip(ip, self.protocol());
        }
        control
    }
}

/// A position between the datagrams of a list of transmits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub(crate) struct Cursor {
    /// The index of the next transmit.
    pub(super) index: usize,
    /// How many of its bytes were sent or planned.
    pub(super) offset: usize,
}

/// Which datagrams may leave in one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offload {
    /// The longest datagram that the kernel is asked to cut out of a message.
    pub(super) longest: usize,
}

impl Offload {
    /// Each datagram is a separate message.
    pub(super) const NONE: Self = Self { longest: 0 };
}

/// One message of the plan: one datagram or several.
pub(super) struct Planned {
    pub(super) message: Message,
    /// The length of all of them.
    len: usize,
    /// The length of its datagrams, if there are several.
    pub(super) segment_size: Option<u16>,
    /// Where the next message begins.
    pub(super) end: Cursor,
}

impl Planned {
    /// The number of datagrams in the message.
    pub(super) fn datagrams(&self) -> usize {
        self.segment_size.map_or(1, |size| self.len.div_ceil(usize::from(size)))
    }
}

/// Plans the next message after `at`, and appends its contents to `slices`. Returns `None` if
/// nothing is left.
pub(super) fn next_message<'a>(
    transmits: &[Transmit<'a>],
    at: Cursor,
    offload: Offload,
    classes: TrafficClasses,
    slices: &mut Vec<IoSlice<'a>>,
) -> Option<Planned> {
    let first = transmits.get(at.index)?;
    let stride = first.stride();
    let start = slices.len();
    let size = u16::try_from(stride).ok().filter(|&size| size > 0 && stride <= offload.longest);
    let (len, end) = match size {
        Some(_) => take_segments(transmits, at, slices),
        None => take_one(first, at, slices),
    };
    // A message that is not cut needs no segment size.
    let segment_size = size.filter(|_| len > stride);
    let message = Message {
        name: first.destination.map(RawAddress::from).unwrap_or_default(),
        slices: start..slices.len(),
        control: first.control(segment_size, classes),
    };
    Some(Planned { message, len, segment_size, end })
}

/// Takes one datagram. Returns its length, and where the next one begins.
fn take_one<'a>(
    transmit: &Transmit<'a>,
    at: Cursor,
    slices: &mut Vec<IoSlice<'a>>,
) -> (usize, Cursor) {
    let rest = &transmit.contents[at.offset..];
    let len = rest.len().min(transmit.stride());
    let end = match rest.len() - len {
        0 => Cursor { index: at.index + 1, offset: 0 },
        _ => Cursor { index: at.index, offset: at.offset + len },
    };
    slices.push(IoSlice::new(&rest[..len]));
    (len, end)
}

/// Takes as many datagrams as may leave in one message: all of one length, of which the last may be
/// shorter. Returns their total length, and where the next one begins.
fn take_segments<'a>(
    transmits: &[Transmit<'a>],
    at: Cursor,
    slices: &mut Vec<IoSlice<'a>>,
) -> (usize, Cursor) {
    let first = &transmits[at.index];
    let stride = first.stride();
    let most = MAX_SEGMENTS.min(MAX_BYTES / stride) * stride;
    let (mut bytes, mut end) = (0, at);
    while let Some(transmit) = transmits.get(end.index) {
        let is_first = end.index == at.index;
        let rest = &transmit.contents[end.offset..];
        let is_alike = transmit.goes_with(first)
            && !rest.is_empty()
            && (transmit.stride() == stride || transmit.is_single() && rest.len() < stride);
        // After a shorter datagram, the kernel would cut in the wrong places.
        let fits = bytes % stride == 0 && bytes < most;
        if !(is_first || is_alike && fits) {
            break;
        }
        let len = rest.len().min(most - bytes);
        slices.push(IoSlice::new(&rest[..len]));
        bytes += len;
        if len < rest.len() {
            end.offset += len;
            break;
        }
        end = Cursor { index: end.index + 1, offset: 0 };
    }
    (bytes, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offload = Offload { longest: 1500 };

    /// For each planned message, the lengths of the datagrams that the kernel would cut.
    fn plan(transmits: &[Transmit<'_>], offload: Offload) -> Vec<Vec<usize>> {
        let (mut at, mut messages, mut slices) = (Cursor::default(), Vec::new(), Vec::new());
        let classes = TrafficClasses::default();
        while let Some(planned) = next_message(transmits, at, offload, classes, &mut slices) {
            assert!(planned.end > at, "each message makes progress");
            at = planned.end;
            let bytes: usize =
                slices[planned.message.slices.clone()].iter().map(|slice| slice.len()).sum();
            assert_eq!(planned.message.slices.end, slices.len());
            let size = planned.segment_size.map_or(bytes.max(1), usize::from);
            let mut lengths = vec![size; bytes / size];
            if !bytes.is_multiple_of(size) || bytes == 0 {
                lengths.push(bytes % size);
            }
            assert!(lengths.len() <= MAX_SEGMENTS && bytes <= MAX_BYTES);
            messages.push(lengths);
        }
        messages
    }

    #[test]
    fn datagrams_of_one_length_leave_together_and_a_shorter_one_ends_them() {
        let data = [0; 100];
        let sizes = [10, 10, 10, 4, 10, 10];
        let transmits = sizes.map(|len| Transmit::new(&data[..len]));
        assert_eq!(plan(&transmits, ALL), [vec![10, 10, 10, 4], vec![10, 10]]);
    }

    #[test]
    fn a_longer_or_an_empty_datagram_begins_another_message() {
        let data = [0; 100];
        let transmits = [10, 20, 0, 0, 20].map(|len| Transmit::new(&data[..len]));
        assert_eq!(plan(&transmits, ALL), [vec![10], vec![20], vec![0], vec![0], vec![20]]);
    }

    #[test]
    fn datagrams_to_different_peers_never_share_a_message() {
        let data = [0; 10];
        let peers = [1, 1, 2, 1].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let transmits = peers.map(|peer| Transmit::to(&data, peer));
        assert_eq!(plan(&transmits, ALL), [vec![10, 10], vec![10], vec![10]]);
        let marked = [Transmit::new(&data), Transmit::new(&data).ecn(EcnCodepoint::Ce)];
        assert_eq!(plan(&marked, ALL), [vec![10], vec![10]]);
    }

    #[test]
    fn a_message_holds_no_more_than_the_kernel_cuts() {
        let data = vec![0; 200_000];
        let small = [Transmit::new(&data[..130]).segment_size(1)];
        let counts: Vec<_> = plan(&small, ALL).iter().map(Vec::len).collect();
        assert_eq!(counts, [64, 64, 2]);
        let large = [Transmit::new(&data).segment_size(1400)];
        let messages = plan(&large, ALL);
        assert_eq!(messages.iter().flatten().sum::<usize>(), data.len());
        assert!(messages.iter().all(|planned| planned.len() <= 46));
    }

    #[test]
    fn without_offload_each_datagram_is_a_message() {
        let data = [0; 25];
        let transmits = [Transmit::new(&data).segment_size(10), Transmit::new(&data[..5])];
        let single = [vec![10], vec![10], vec![5], vec![5]];
        assert_eq!(plan(&transmits, Offload::NONE), single);
        assert_eq!(plan(&transmits, Offload { longest: 4 }), single);
    }

    /// Compares plans of random lists with the plain list of their datagrams.
    #[test]
    fn no_plan_loses_reorders_or_recuts_a_datagram() {
        let data = [0; 400];
        let seeds = if cfg!(miri) { 20 } else { 5_000 };
        for seed in 1..=seeds {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut next = |bound: usize| random.usize(..bound);
            let transmits: Vec<_> = (0..next(40))
                .map(|_| {
                    let peer = SocketAddr::from(([127, 0, 0, 1], next(2) as u16));
                    let transmit = Transmit::to(&data[..next(3) * 20 + next(3)], peer);
                    if next(4) == 0 { transmit.segment_size(next(20)) } else { transmit }
                })
                .collect();
            let single: Vec<_> = plan(&transmits, Offload::NONE).concat();
            for offload in [ALL, Offload { longest: 20 }] {
                assert_eq!(plan(&transmits, offload).concat(), single, "seed {seed}");
            }
        }
    }
}
