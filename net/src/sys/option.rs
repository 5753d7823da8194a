//! Socket options as the kernel takes them: those for which socket2 has no setter, and conversions
//! for the others.

// UNSAFETY: setsockopt and getsockopt take raw pointers.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::mem::offset_of;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket};

use super::address::RawAddress;
use super::control::{TrafficClasses, Wanted};

/// The length of an `int` in bytes.
const INT_LEN: libc::socklen_t = 4;

/// The largest `int`.
const INT_MAX: u32 = i32::MAX.unsigned_abs();

/// A size that the kernel takes as an `int`. One that does not fit becomes the largest `int`. A
/// cast would turn 4 GiB into a buffer of 0 bytes.
pub(crate) fn size(bytes: usize) -> usize {
    bytes.min(INT_MAX as usize)
}

/// A count or an index that the kernel takes as an `int`. One that does not fit becomes the largest
/// `int`, which the kernel refuses. A cast would make it negative, and -1 means a default.
pub(crate) fn count(count: u32) -> u32 {
    count.min(INT_MAX)
}

/// A traffic class, which is one byte. For IPv6 the kernel refuses more (`EINVAL`), for IPv4 it
/// cuts it off.
///
/// # Errors
///
/// `EINVAL` if it is more than a byte.
pub(crate) fn traffic_class(class: u32) -> io::Result<u32> {
    match u8::try_from(class) {
        Ok(class) => Ok(class.into()),
        Err(_) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Sets a socket option (setsockopt(2)).
fn set(socket: &Socket, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).expect("an option is short");
    // SAFETY: the pointer names `value` and its length.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets a socket option that is on or off (setsockopt(2)).
pub(crate) fn set_flag(socket: &Socket, level: i32, name: i32, on: bool) -> io::Result<()> {
    set(socket, level, name, &i32::from(on).to_ne_bytes())
}

/// Whether a socket option is on (getsockopt(2)).
pub(crate) fn flag(socket: &Socket, level: i32, name: i32) -> io::Result<bool> {
    let mut value: libc::c_int = 0;
    let mut len = INT_LEN;
    // SAFETY: the pointers name `value` and its length, and the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len)
    };
    if result == 0 { Ok(value != 0) } else { Err(io::Error::last_os_error()) }
}

/// Requests the wanted metadata with each datagram.
pub(crate) fn request(socket: &Socket, wanted: Wanted) -> io::Result<()> {
    let is_v6 = socket.domain()? == Domain::IPV6;
    if wanted.ecn {
        set_flag(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, true)?;
    }
    if wanted.ecn && is_v6 {
        set_flag(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, true)?;
    }
    if wanted.dst_ip {
        let (level, name) = match is_v6 {
            // For IPv4 datagrams too, with a mapped address.
            true => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            false => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        };
        set_flag(socket, level, name, true)?;
    }
    if wanted.timestamp {
        set_flag(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, true)?;
    }
    if wanted.drop_count {
        set_flag(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, true)?;
    }
    Ok(())
}

/// The traffic classes with which the socket sends.
pub(crate) fn traffic_classes(socket: &Socket) -> io::Result<TrafficClasses> {
    // Only the low byte can be set.
    let low_byte = |class: u32| class.to_le_bytes()[0];
    let v6 = match socket.domain()? {
        Domain::IPV6 => socket.tclass_v6()?,
        _ => 0,
    };
    Ok(TrafficClasses { v4: low_byte(socket.tos_v4()?), v6: low_byte(v6) })
}

/// Whether to join or leave a source-specific multicast group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    Join,
    Leave,
}

/// Joins or leaves a multicast group for one source (`struct group_source_req`, RFC 3678).
pub(crate) fn set_source_membership(
    socket: &Socket,
    membership: Membership,
    source: Ipv6Addr,
    group: Ipv6Addr,
    interface: u32,
) -> io::Result<()> {
    let mut request = [0; size_of::<libc::group_source_req>()];
    let mut put = |at: usize, bytes: &[u8]| request[at..][..bytes.len()].copy_from_slice(bytes);
    let address = |ip: Ipv6Addr| RawAddress::from(std::net::SocketAddr::from((ip, 0)));
    put(offset_of!(libc::group_source_req, gsr_interface), &interface.to_ne_bytes());
    put(offset_of!(libc::group_source_req, gsr_group), address(group).bytes());
    put(offset_of!(libc::group_source_req, gsr_source), address(source).bytes());
    let name = match membership {
        Membership::Join => libc::MCAST_JOIN_SOURCE_GROUP,
        Membership::Leave => libc::MCAST_LEAVE_SOURCE_GROUP,
    };
    set(socket, libc::IPPROTO_IPV6, name, &request)
}

/// Binds the socket to an interface, or to none (`SO_BINDTODEVICE`). The kernel would cut off a
/// longer name, or one with a zero byte, and bind to another interface.
pub(crate) fn bind_device(socket: &Socket, interface: Option<&[u8]>) -> io::Result<()> {
    let name = interface.unwrap_or_default();
    // IFNAMSIZ includes the final zero byte.
    if name.contains(&0) || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the name of a network interface has at most 15 bytes, none of them zero",
        ));
    }
    socket.bind_device(Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a number that does not fit is cast.
    #[test]
    fn what_does_not_fit_into_an_int_is_the_largest() {
        let most = i32::MAX.unsigned_abs();
        for (asked, granted) in [
            (0, 0),
            (most as usize, most as usize),
            (1 << 31, most as usize),
            (1 << 32, most as usize),
            ((1 << 32) + 4096, most as usize),
            (usize::MAX, most as usize),
        ] {
            assert_eq!(size(asked), granted, "{asked}");
        }
        for (asked, granted) in [(0, 0), (most, most), (1 << 31, most), (u32::MAX, most)] {
            assert_eq!(count(asked), granted, "{asked}");
        }
    }

    #[test]
    fn a_traffic_class_has_one_byte() {
        assert_eq!(traffic_class(0xff).unwrap(), 0xff);
        for class in [0x100, 0x1b8, u32::MAX] {
            assert_eq!(traffic_class(class).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
    }
}
