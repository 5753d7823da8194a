//! Addresses that no other test uses, and addresses that std cannot bind.

// UNSAFETY: std and socket2 cannot bind a path of the full 108 bytes.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ebbtide::net::UnixAddr;

use crate::checked;

/// An abstract Unix name that no other test uses.
pub fn unique_name(what: &str) -> UnixAddr {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ebbtide-test-{what}-{}-{count}", std::process::id());
    UnixAddr::from_abstract_name(name).expect("the name is short")
}

/// A path of exactly `len` bytes that no other test uses.
pub fn path_of(len: usize) -> PathBuf {
    let name = unique_name("long");
    let mut path = std::env::temp_dir().into_os_string().into_encoded_bytes();
    path.push(b'/');
    path.extend(name.as_abstract_name().expect("it is abstract"));
    assert!(path.len() <= len, "the path of the temporary directory is too long");
    path.resize(len, b'x');
    PathBuf::from(String::from_utf8(path).expect("the directory's name is UTF-8"))
}

/// Binds `socket` to a path of 108 bytes, which fills `sun_path`. The kernel adds a NUL and reports
/// an address of 111 bytes, one more than a `sockaddr_un` has.
///
/// # Errors
///
/// Those of bind(2).
pub fn bind_full_path(socket: &UnixDatagram, path: &Path) -> io::Result<()> {
    let path = path.as_os_str().as_bytes();
    // SAFETY: an all-zero sockaddr_un is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    assert_eq!(path.len(), address.sun_path.len());
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer names `address` and its length.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })
}
