//! Socket addresses as the kernel writes them. Pure: bytes in, address out.

use std::ffi::OsStr;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net;
use std::path::Path;

use socket2::SockAddr;

#[cfg(any(test, fuzzing))]
pub(crate) mod properties;

/// The length of an IPv4 address (`struct sockaddr_in`).
pub(crate) const IPV4_NAME_LEN: usize = 16;

/// The length of the longest internet address (`struct sockaddr_in6`).
pub(crate) const INTERNET_NAME_LEN: usize = 28;

/// The length of the longest Unix address (`struct sockaddr_un`). A path of 108 bytes has no final
/// zero byte (docs/kernel.md, K-UNIX-6).
pub(crate) const UNIX_NAME_LEN: usize = 110;

mod sealed {
    /// Limits [`Address`](super::Address) to the kinds of addresses that the kernel has.
    pub trait Sealed {}
    impl Sealed for std::net::SocketAddr {}
    impl Sealed for std::os::unix::net::SocketAddr {}
}

/// The address of a datagram's sender: [`std::net::SocketAddr`] for UDP,
/// [`std::os::unix::net::SocketAddr`] for Unix sockets. No other type can implement this trait. See
/// [`DatagramSocket`](crate::DatagramSocket) for an example.
pub trait Address: sealed::Sealed + Sized {
    /// Reads a raw socket address. An absent or unknown address becomes the unspecified one:
    /// `0.0.0.0:0`, or the unnamed Unix address. So does a path of 108 bytes, which the kernel
    /// allows and std's type cannot represent.
    fn from_raw(name: &[u8]) -> Self;
}

impl Address for SocketAddr {
    fn from_raw(name: &[u8]) -> Self {
        internet(name).unwrap_or(Self::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)))
    }
}

impl Address for net::SocketAddr {
    fn from_raw(name: &[u8]) -> Self {
        unix(name).unwrap_or_else(unnamed)
    }
}

/// An internet address as the kernel reads it. Its length is 0 if there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RawAddress {
    bytes: [u8; INTERNET_NAME_LEN],
    len: usize,
}

impl RawAddress {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        let mut raw = Self::default();
        let mut put =
            |at: usize, bytes: &[u8]| raw.bytes[at..][..bytes.len()].copy_from_slice(bytes);
        put(2, &address.port().to_be_bytes());
        match address {
            SocketAddr::V4(address) => {
                put(0, &family(libc::AF_INET).to_ne_bytes());
                put(4, &address.ip().octets());
                raw.len = IPV4_NAME_LEN;
            }
            SocketAddr::V6(address) => {
                put(0, &family(libc::AF_INET6).to_ne_bytes());
                put(4, &address.flowinfo().to_ne_bytes());
                put(8, &address.ip().octets());
                put(24, &address.scope_id().to_ne_bytes());
                raw.len = INTERNET_NAME_LEN;
            }
        }
        raw
    }
}

/// The address of the socket at `path`.
///
/// A path with a zero byte is refused, as in std. The kernel would read the path only up to that
/// byte. A path that begins with a zero byte would be an abstract name (unix(7)).
pub(crate) fn from_path(path: &Path) -> io::Result<SockAddr> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "paths must not contain interior null bytes",
        ));
    }
    SockAddr::unix(path)
}

/// Converts a Unix address for socket2. std has already checked the path.
pub(crate) fn from_unix_addr(addr: &net::SocketAddr) -> io::Result<SockAddr> {
    if let Some(path) = addr.as_pathname() {
        return from_path(path);
    }
    if let Some(name) = addr.as_abstract_name() {
        let name = [&[0], name].concat();
        return SockAddr::unix(OsStr::from_bytes(&name));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "an unnamed Unix address names no socket"))
}

/// An address family in the type that begins an address.
pub(crate) fn family(family: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).expect("it has two bytes")
}

fn internet(name: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes(name, 2)?);
    match i32::from(u16::from_ne_bytes(bytes(name, 0)?)) {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(bytes::<4>(name, 4)?);
            Some(SocketAddrV4::new(ip, port).into())
        }
        libc::AF_INET6 => {
            let flow_info = u32::from_ne_bytes(bytes(name, 4)?);
            let ip = Ipv6Addr::from(bytes::<16>(name, 8)?);
            let scope_id = u32::from_ne_bytes(bytes(name, 24)?);
            Some(SocketAddrV6::new(ip, port, flow_info, scope_id).into())
        }
        _ => None,
    }
}

fn unix(name: &[u8]) -> Option<net::SocketAddr> {
    if i32::from(u16::from_ne_bytes(bytes(name, 0)?)) != libc::AF_UNIX {
        return None;
    }
    let path = name.get(2..)?;
    if let Some((0, abstract_name)) = path.split_first().map(|(first, rest)| (*first, rest)) {
        return net::SocketAddr::from_abstract_name(abstract_name).ok();
    }
    // The kernel counts the final zero byte, which a path of full length does not have.
    let path = path.split(|&byte| byte == 0).next().filter(|path| !path.is_empty())?;
    net::SocketAddr::from_pathname(OsStr::from_bytes(path)).ok()
}

fn unnamed() -> net::SocketAddr {
    net::SocketAddr::from_pathname("").expect("the empty path is the unnamed address")
}

fn bytes<const N: usize>(name: &[u8], at: usize) -> Option<[u8; N]> {
    name.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(address: &socket2::SockAddr) -> Vec<u8> {
        crate::sys::socket::raw_name(address).to_vec()
    }

    #[test]
    fn internet_addresses_survive_the_round_trip() {
        for text in ["127.0.0.1:8125", "255.1.2.3:65535", "[::1]:53", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from_raw(&raw(&address.into())), address);
            assert_eq!(SocketAddr::from_raw(RawAddress::from(address).bytes()), address);
        }
    }

    #[test]
    fn a_path_survives_the_round_trip() {
        for len in [1, 50, 107] {
            let path = "p".repeat(len);
            let raw = raw(&socket2::SockAddr::unix(&path).unwrap());
            let address = net::SocketAddr::from_raw(&raw);
            assert_eq!(address.as_pathname().unwrap().to_str().unwrap(), path);
        }
    }

    #[test]
    fn an_abstract_name_may_hold_any_byte() {
        let raw = raw(&socket2::SockAddr::unix("\0a\0b").unwrap());
        let address = net::SocketAddr::from_raw(&raw);
        assert_eq!(address.as_abstract_name().unwrap(), b"a\0b");
    }

    /// Fails when such a path reaches the kernel, which reads another path or an abstract name.
    #[test]
    fn a_path_with_a_zero_byte_is_refused_as_std_refuses_it() {
        for path in ["a\0b", "a\0", "\0a", "\0"] {
            let refused = from_path(Path::new(path)).unwrap_err();
            let by_std = net::SocketAddr::from_pathname(path).unwrap_err();
            assert_eq!(refused.kind(), by_std.kind(), "{path:?}");
            assert_eq!(refused.to_string(), by_std.to_string(), "{path:?}");
        }
    }

    #[test]
    fn an_absent_address_is_unspecified() {
        assert!(net::SocketAddr::from_raw(&[]).is_unnamed());
        assert!(net::SocketAddr::from_raw(&(libc::AF_UNIX as u16).to_ne_bytes()).is_unnamed());
        assert_eq!(SocketAddr::from_raw(&[]), "0.0.0.0:0".parse().unwrap());
    }

    #[test]
    fn an_address_cut_short_never_panics() {
        let families = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, 77];
        for family in families {
            for len in 0..=UNIX_NAME_LEN {
                let mut name = [b'x'; UNIX_NAME_LEN];
                name[..2].copy_from_slice(&(family as u16).to_ne_bytes());
                let _ = SocketAddr::from_raw(&name[..len]);
                let _ = net::SocketAddr::from_raw(&name[..len]);
            }
        }
    }
}
