//! Properties of every address, whatever bytes the kernel writes. For `fuzz/`, and for a test that
//! replays its corpus.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net;

use super::{Address, INTERNET_NAME_LEN, UNIX_NAME_LEN};
use crate::sys::socket::raw_name;

/// The length of the part of an IPv4 address that has a meaning.
const IPV4_USED: usize = 8;

/// Checks all properties for one input, which is the address.
///
/// # Panics
///
/// If a property does not hold.
pub(crate) fn hold(name: &[u8]) {
    internet(name);
    unix(&name[..name.len().min(UNIX_NAME_LEN)]);
}

fn internet(name: &[u8]) {
    let family = name.first_chunk().map(|&bytes| i32::from(u16::from_ne_bytes(bytes)));
    let used = match family {
        Some(libc::AF_INET) => IPV4_USED,
        Some(libc::AF_INET6) => INTERNET_NAME_LEN,
        _ => usize::MAX,
    };
    let address = SocketAddr::from_raw(name);
    if name.len() < used {
        assert_eq!(address, (Ipv4Addr::UNSPECIFIED, 0).into(), "too short, or an unknown family");
        return;
    }
    assert_eq!(address.is_ipv4(), family == Some(libc::AF_INET));
    assert_eq!(address.port().to_be_bytes(), name[2..4]);
    match address {
        SocketAddr::V4(address) => assert_eq!(address.ip().octets(), name[4..8]),
        SocketAddr::V6(address) => {
            assert_eq!(address.ip().octets(), name[8..24]);
            assert_eq!(address.scope_id().to_ne_bytes(), name[24..28]);
        }
    }

    assert_eq!(
        SocketAddr::from_raw(&name[..used]),
        address,
        "bytes after the address make a difference"
    );
    assert_eq!(SocketAddr::from_raw(&name[..used - 1]), (Ipv4Addr::UNSPECIFIED, 0).into());
    // socket2 writes what the kernel reads, so a received address can be a destination.
    let written = socket2::SockAddr::from(address);
    assert_eq!(raw_name(&written)[..used], name[..used], "the address changes when it is written");
    assert_eq!(SocketAddr::from_raw(raw_name(&written)), address, "the round trip");
}

fn unix(name: &[u8]) {
    let address = net::SocketAddr::from_raw(name);
    let is_unix = name.first_chunk() == Some(&(libc::AF_UNIX as u16).to_ne_bytes());
    let Some(rest) = name.get(2..).filter(|rest| is_unix && !rest.is_empty()) else {
        assert!(address.is_unnamed(), "{address:?} from no name");
        return;
    };
    if rest[0] == 0 {
        assert_eq!(
            address.as_abstract_name(),
            Some(&rest[1..]),
            "an abstract name is all its bytes"
        );
    } else {
        let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
        let path = address.as_pathname().map(|path| path.as_os_str().as_bytes());
        // std's type cannot represent a path of full length. It is unnamed instead.
        let expected = Some(&rest[..end]).filter(|path| path.len() < UNIX_NAME_LEN - 2);
        assert_eq!(path, expected, "a path ends with its first 0, or with the name");
        let mut other = name.to_vec();
        other[2 + end..].iter_mut().skip(1).for_each(|byte| *byte = !*byte);
        let other = net::SocketAddr::from_raw(&other);
        assert_eq!(other.as_pathname(), address.as_pathname(), "stale bytes are exposed");
    }
}

#[cfg(test)]
mod replay {
    include!("../../../../fuzz/replay.rs");

    #[test]
    fn they_hold_for_the_corpus_of_the_fuzzer_and_its_neighbours() {
        replay("address", super::hold);
    }
}
