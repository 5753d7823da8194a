//! Control messages (cmsg(3)), as the kernel writes and reads them. Pure: converts between bytes
//! and values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use super::address::INTERNET_NAME_LEN;

#[cfg(any(test, fuzzing))]
pub(crate) mod properties;

/// `struct cmsghdr`: a length, a level and a type.
const HEADER_LEN: usize = size_of::<usize>() + 2 * size_of::<i32>();

/// The alignment of a control message, and of its length.
const ALIGNMENT: usize = size_of::<usize>();

/// The number of bytes for a control message with `data` bytes of data (`CMSG_SPACE`).
pub(crate) const fn space(data: usize) -> usize {
    HEADER_LEN + data.next_multiple_of(ALIGNMENT)
}

/// Explicit congestion notification (ECN, RFC 3168) of a sent or received datagram.
///
/// [`Transmit::ecn`](crate::Transmit::ecn) sends one, [`Datagram::ecn`](crate::Datagram::ecn)
/// returns a received one, and [`UdpOptions::recv_ecn`](crate::UdpOptions::recv_ecn) has an
/// example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EcnCodepoint {
    /// ECN-capable transport, ECT(0).
    Ect0 = 0b10,
    /// ECN-capable transport, ECT(1).
    Ect1 = 0b01,
    /// Congestion was experienced.
    Ce = 0b11,
}

impl EcnCodepoint {
    /// Returns the codepoint in the two low bits of a traffic class, or `None` if the datagram is
    /// not ECN-capable.
    ///
    /// ```
    /// use ebbtide::net::EcnCodepoint;
    ///
    /// assert_eq!(EcnCodepoint::from_bits(0b11), Some(EcnCodepoint::Ce));
    /// assert_eq!(EcnCodepoint::from_bits(0b00), None);
    /// ```
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0b10 => Some(Self::Ect0),
            0b01 => Some(Self::Ect1),
            0b11 => Some(Self::Ce),
            _ => None,
        }
    }
}

/// The metadata that can be requested for each datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) ecn: bool,
    pub(crate) dst_ip: bool,
    pub(crate) timestamp: bool,
    pub(crate) drop_count: bool,
}

impl Wanted {
    /// The number of bytes for all control messages that can be requested, and for the segment
    /// length of a train. Space for all is always reserved: others may request some through the
    /// descriptor, and the segment length must not be cut off.
    pub(crate) const SPACE_FOR_ALL: usize = space(size_of::<libc::c_int>())
        + 2 * space(size_of::<libc::c_int>())
        + space(size_of::<libc::in6_pktinfo>())
        + space(size_of::<libc::timespec>())
        + space(size_of::<u32>());
}

// A buffer reserves 256 bytes in front of a payload, of which the kernel's own header takes 16.
const _: () = assert!(16 + INTERNET_NAME_LEN + Wanted::SPACE_FOR_ALL <= 256);

/// The metadata of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) dst_ip: Option<IpAddr>,
    pub(crate) interface_index: Option<u32>,
    pub(crate) timestamp: Option<SystemTime>,
    pub(crate) drop_count: Option<u32>,
}

impl Metadata {
    /// Reads all known control messages and skips unknown ones.
    pub(crate) fn read(control: &[u8]) -> Self {
        let mut metadata = Self::default();
        for message in messages(control) {
            metadata.take(message);
        }
        metadata
    }

    fn take(&mut self, Message { level, kind, data }: Message<'_>) {
        match (level, kind) {
            // One byte for IPv4, although the option is set as an int.
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.ecn = low_byte(data).and_then(EcnCodepoint::from_bits);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // struct in_pktinfo: the interface, the local address, the destination.
                self.interface_index = bytes(data, 0).map(u32::from_ne_bytes);
                self.dst_ip = bytes::<4>(data, 8).map(|ip| Ipv4Addr::from(ip).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let ip = bytes::<16>(data, 0).map(Ipv6Addr::from);
                self.dst_ip = ip.map(|ip| IpAddr::V6(ip).to_canonical());
                self.interface_index = bytes(data, 16).map(u32::from_ne_bytes);
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => self.timestamp = timestamp(data),
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                self.drop_count = bytes(data, 0).map(u32::from_ne_bytes);
            }
            _ => {}
        }
    }
}

/// The segment length of a train (`UDP_GRO`, Linux 5.0). `None` if it is a single datagram.
#[inline]
pub(crate) fn segment_size(control: &[u8]) -> Option<NonZeroU32> {
    // Most messages have no control messages.
    if control.is_empty() { None } else { find_segment_size(control) }
}

fn find_segment_size(control: &[u8]) -> Option<NonZeroU32> {
    let size = messages(control)
        .find(|message| (message.level, message.kind) == (libc::SOL_UDP, libc::UDP_GRO))
        .and_then(|message| bytes(message.data, 0).map(i32::from_ne_bytes))?;
    NonZeroU32::new(u32::try_from(size).ok()?)
}

fn timestamp(data: &[u8]) -> Option<SystemTime> {
    const HALF: usize = size_of::<libc::timespec>() / 2;
    let number = |at| bytes::<HALF>(data, at).map(libc::time_t::from_ne_bytes);
    let seconds = u64::try_from(number(0)?).ok()?;
    let nanoseconds = u32::try_from(number(HALF)?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

fn low_byte(data: &[u8]) -> Option<u8> {
    match bytes::<4>(data, 0) {
        Some(int) => Some(i32::from_ne_bytes(int).to_le_bytes()[0]),
        None => data.first().copied(),
    }
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

/// One control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message<'a> {
    level: i32,
    kind: i32,
    /// The data that is there; the rest may be cut off.
    data: &'a [u8],
}

/// The control messages in `control`, up to the first with an invalid header.
fn messages(mut control: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = usize::from_ne_bytes(bytes(control, 0)?);
        let level = i32::from_ne_bytes(bytes(control, size_of::<usize>())?);
        let kind = i32::from_ne_bytes(bytes(control, size_of::<usize>() + size_of::<i32>())?);
        if len < HEADER_LEN {
            return None;
        }
        let data = &control[HEADER_LEN..len.min(control.len())];
        let next = len.checked_next_multiple_of(ALIGNMENT)?;
        control = control.get(next..).unwrap_or_default();
        Some(Message { level, kind, data })
    })
}

/// Control messages to be sent with a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlBuffer {
    bytes: Aligned,
    len: usize,
}

/// Space for all messages that can be sent: the segment length, and for each protocol the traffic
/// class and the source.
const BUFFER_LEN: usize = space(size_of::<u16>())
    + 2 * space(size_of::<i32>())
    + space(size_of::<libc::in_pktinfo>())
    + space(size_of::<libc::in6_pktinfo>());

/// The kernel reads headers in place.
#[derive(Clone, Copy, Debug)]
#[repr(align(8))]
struct Aligned([u8; BUFFER_LEN]);

impl ControlBuffer {
    pub(crate) const EMPTY: Self = Self { bytes: Aligned([0; BUFFER_LEN]), len: 0 };

    /// Sends the payload as datagrams of `size` bytes each (`UDP_SEGMENT`, Linux 4.18).
    pub(crate) fn segment_size(&mut self, size: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }

    /// Sets the congestion notification. The control message replaces the whole traffic class, so
    /// its other six bits are those of `classes`.
    ///
    /// Each protocol ignores the message of the other (ip(7), ipv6(7)). If the protocol is not
    /// known, both messages are sent.
    pub(crate) fn ecn(
        &mut self,
        ecn: EcnCodepoint,
        protocol: Option<IpVersion>,
        classes: TrafficClasses,
    ) {
        let class = |class: u8| i32::from(class & !0b11 | ecn as u8).to_ne_bytes();
        if protocol != Some(IpVersion::V6) {
            self.push(libc::IPPROTO_IP, libc::IP_TOS, &class(classes.v4));
        }
        if protocol != Some(IpVersion::V4) {
            self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class(classes.v6));
        }
    }

    /// Sets the source address. If it is unspecified, the kernel chooses: in IPv4 also if the
    /// socket is bound to an address (`ip_cmsg_send`).
    ///
    /// A datagram of the other protocol would ignore the message and leave with another source.
    /// Where that is possible, a second message makes the send fail, because the other protocol
    /// refuses it with `EINVAL`.
    pub(crate) fn src_ip(&mut self, ip: IpAddr, protocol: Option<IpVersion>) {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                info[4..8].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
                if protocol != Some(IpVersion::V4) && !ip.is_unspecified() {
                    // On an IPv6 socket, IPv4 accepts the mapped address, which is equivalent. No
                    // interface has it, so IPv6 refuses it (`ip6_datagram_send_ctl`).
                    self.push_v6_source(ip.to_ipv6_mapped());
                }
            }
            IpAddr::V6(ip) if ip.is_unspecified() => {}
            IpAddr::V6(ip) => {
                self.push_v6_source(ip);
                if protocol != Some(IpVersion::V6) {
                    // IPv4 refuses a message of the wrong length (`ip_cmsg_send`).
                    self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &[]);
                }
            }
        }
    }

    fn push_v6_source(&mut self, ip: Ipv6Addr) {
        let mut info = [0; size_of::<libc::in6_pktinfo>()];
        info[..16].copy_from_slice(&ip.octets());
        self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let message = &mut self.bytes.0[self.len..][..space(data.len())];
        let (len, rest) = message.split_at_mut(size_of::<usize>());
        len.copy_from_slice(&(HEADER_LEN + data.len()).to_ne_bytes());
        rest[..4].copy_from_slice(&level.to_ne_bytes());
        rest[4..8].copy_from_slice(&kind.to_ne_bytes());
        rest[8..8 + data.len()].copy_from_slice(data);
        self.len += space(data.len());
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes.0[..self.len]
    }
}

/// The internet protocol of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IpVersion {
    V4,
    V6,
}

impl IpVersion {
    /// The protocol of datagrams to `ip`. An IPv6 socket sends datagrams to a mapped address by
    /// IPv4. Returns `None` for the unspecified IPv6 address, which stands for this host in either
    /// protocol.
    pub(crate) fn of_datagrams_to(ip: IpAddr) -> Option<Self> {
        match ip.to_canonical() {
            IpAddr::V4(_) => Some(Self::V4),
            IpAddr::V6(ip) if ip.is_unspecified() => None,
            IpAddr::V6(_) => Some(Self::V6),
        }
    }
}

/// The traffic classes with which a socket sends, for each protocol (`IP_TOS`, `IPV6_TCLASS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TrafficClasses {
    pub(crate) v4: u8,
    pub(crate) v6: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(messages: &[(i32, i32, &[u8])]) -> Vec<u8> {
        let mut control = Vec::new();
        for &(level, kind, data) in messages {
            control.extend((HEADER_LEN + data.len()).to_ne_bytes());
            control.extend(level.to_ne_bytes());
            control.extend(kind.to_ne_bytes());
            control.extend(data);
            control.resize(control.len().next_multiple_of(ALIGNMENT), 0xee);
        }
        control
    }

    #[test]
    fn everything_that_can_be_asked_for_is_read() {
        let control = control(&[
            (
                libc::SOL_SOCKET,
                libc::SCM_TIMESTAMPNS,
                &[5i64.to_ne_bytes(), 7i64.to_ne_bytes()].concat(),
            ),
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &3u32.to_ne_bytes()),
            (libc::SOL_UDP, libc::UDP_GRO, &1200i32.to_ne_bytes()),
            (libc::IPPROTO_IP, libc::IP_PKTINFO, &[2, 0, 0, 0, 127, 0, 0, 1, 127, 0, 0, 9]),
            (libc::IPPROTO_IP, libc::IP_TOS, &[0b11]),
        ]);
        assert_eq!(segment_size(&control), NonZeroU32::new(1200));
        let read = Metadata::read(&control);
        let expected = Metadata {
            ecn: Some(EcnCodepoint::Ce),
            dst_ip: Some(Ipv4Addr::new(127, 0, 0, 9).into()),
            interface_index: Some(2),
            timestamp: Some(SystemTime::UNIX_EPOCH + Duration::new(5, 7)),
            drop_count: Some(3),
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn an_ipv6_destination_is_read() {
        let mut info = Ipv6Addr::LOCALHOST.octets().to_vec();
        info.extend(7u32.to_ne_bytes());
        let read = Metadata::read(&control(&[
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &2i32.to_ne_bytes()),
        ]));
        assert_eq!(read.dst_ip, Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!((read.interface_index, read.ecn), (Some(7), Some(EcnCodepoint::Ect0)));
    }

    #[test]
    fn a_train_without_a_length_is_a_single_datagram() {
        for size in [0, -1, i32::MIN] {
            let control = control(&[(libc::SOL_UDP, libc::UDP_GRO, &size.to_ne_bytes())]);
            assert_eq!(segment_size(&control), None, "{size}");
        }
        assert_eq!(segment_size(&[]), None);
    }

    #[test]
    fn control_messages_cut_short_never_panic() {
        let whole = control(&[
            (libc::SOL_UDP, libc::UDP_GRO, &1200i32.to_ne_bytes()),
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &[0; 16]),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[9; 20]),
        ]);
        for len in 0..=whole.len() {
            let _ = (segment_size(&whole[..len]), Metadata::read(&whole[..len]));
        }
        for len in [0, 1, 15, 17, usize::MAX, usize::MAX - 7] {
            let mut lying = whole.clone();
            lying[..8].copy_from_slice(&len.to_ne_bytes());
            let _ = (segment_size(&lying), Metadata::read(&lying));
        }
    }

    /// The level and type of the messages that `write` writes.
    fn written(write: impl FnOnce(&mut ControlBuffer)) -> Vec<(i32, i32)> {
        let mut buffer = ControlBuffer::EMPTY;
        write(&mut buffer);
        messages(buffer.bytes()).map(|message| (message.level, message.kind)).collect()
    }

    #[test]
    fn each_protocol_has_its_own_message_and_both_are_sent_where_it_is_not_known() {
        let classes = TrafficClasses::default();
        let (tos, class) =
            ((libc::IPPROTO_IP, libc::IP_TOS), (libc::IPPROTO_IPV6, libc::IPV6_TCLASS));
        let (info_v4, info_v6) =
            ((libc::IPPROTO_IP, libc::IP_PKTINFO), (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO));
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
        for (protocol, ecn, from_v4, from_v6) in [
            (Some(IpVersion::V4), vec![tos], vec![info_v4], vec![info_v6, info_v4]),
            (Some(IpVersion::V6), vec![class], vec![info_v4, info_v6], vec![info_v6]),
            (None, vec![tos, class], vec![info_v4, info_v6], vec![info_v6, info_v4]),
        ] {
            let written_ecn = written(|to| to.ecn(EcnCodepoint::Ce, protocol, classes));
            assert_eq!(written_ecn, ecn, "{protocol:?}");
            assert_eq!(written(|to| to.src_ip(v4, protocol)), from_v4, "{protocol:?}");
            assert_eq!(written(|to| to.src_ip(mapped, protocol)), from_v4, "{protocol:?}");
            assert_eq!(written(|to| to.src_ip(v6, protocol)), from_v6, "{protocol:?}");
            let of_any = |ip: IpAddr| written(|to| to.src_ip(ip, protocol));
            assert_eq!(of_any(Ipv4Addr::UNSPECIFIED.into()), [info_v4], "{protocol:?}");
            assert_eq!(of_any(Ipv6Addr::UNSPECIFIED.into()), [], "{protocol:?}");
        }
    }

    #[test]
    fn all_that_can_be_written_has_buffer_space() {
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let mut buffer = ControlBuffer::EMPTY;
            buffer.segment_size(1400);
            buffer.ecn(EcnCodepoint::Ce, None, TrafficClasses::default());
            buffer.src_ip(ip, None);
            assert!(buffer.bytes().len() <= BUFFER_LEN);
        }
    }

    #[test]
    fn a_destination_tells_the_protocol_unless_it_is_unspecified() {
        for (ip, protocol) in [
            ("127.0.0.1", Some(IpVersion::V4)),
            ("0.0.0.0", Some(IpVersion::V4)),
            ("::ffff:127.0.0.1", Some(IpVersion::V4)),
            ("::1", Some(IpVersion::V6)),
            ("::", None),
        ] {
            assert_eq!(IpVersion::of_datagrams_to(ip.parse().unwrap()), protocol, "{ip}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut buffer = ControlBuffer::EMPTY;
        buffer.segment_size(1400);
        buffer.ecn(EcnCodepoint::Ect1, Some(IpVersion::V6), TrafficClasses::default());
        buffer.src_ip(Ipv6Addr::LOCALHOST.into(), Some(IpVersion::V6));
        let read = Metadata::read(buffer.bytes());
        assert_eq!(
            (read.ecn, read.dst_ip),
            (Some(EcnCodepoint::Ect1), Some(Ipv6Addr::LOCALHOST.into()))
        );
        let first = messages(buffer.bytes()).next().unwrap();
        let expected =
            Message { level: libc::SOL_UDP, kind: libc::UDP_SEGMENT, data: &1400u16.to_ne_bytes() };
        assert_eq!(first, expected);
    }
}
