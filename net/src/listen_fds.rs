//! Socket activation: sockets that a supervisor bound and passed in.
//!
//! Other crates that read this protocol remove its variables from the environment. That is sound
//! only in a program with one thread. Here the variables stay, and the descriptors are taken once.

// UNSAFETY: a descriptor that was passed in is only known by its number.
#![expect(unsafe_code, reason = "argued above")]

use std::env;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use ebbtide_runtime::Exit;
use socket2::SockRef;

use crate::{UdpOptions, UdpSocket, UnixDatagram};

/// The number of the first descriptor (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// True once the descriptors have been taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the sockets that a supervisor passed in (`LISTEN_FDS`, `LISTEN_FDNAMES`,
/// sd_listen_fds(3)).
///
/// Returns an empty list if none were passed to this process, and on every later call.
///
/// The queues of these sockets outlive this program. So the exit does not seal them but leaves
/// them: their [`Exit`] is [`Exit::Leave`] unless you set another.
///
/// ```
/// # ebbtide::run(async {
/// use ebbtide::net::{UdpSocket, listen_fds};
///
/// let socket = match listen_fds()?.into_iter().next() {
///     Some(passed_in) => passed_in.into_udp_socket()?,
///     None => UdpSocket::bind("127.0.0.1:0")?,
/// };
/// # let _ = socket;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
///
/// # Errors
///
/// * `EBADF` if a descriptor that `LISTEN_FDS` announces is not open.
/// * `InvalidData` if `LISTEN_FDS` is not a number.
/// * `InvalidData` if it announces more descriptors than were passed in. This is detected when the
///   next descriptor is no socket and is closed by exec (`FD_CLOEXEC`), so that this program must
///   have opened it.
///
/// After an error, no descriptor has been taken.
pub fn listen_fds() -> io::Result<Vec<ListenFd>> {
    let is_for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == process::id().to_string());
    let Some(count) = env::var_os("LISTEN_FDS").filter(|_| is_for_us) else {
        return Ok(Vec::new());
    };
    let count: RawFd = count
        .to_str()
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| invalid(format!("LISTEN_FDS is not a number: {count:?}")))?;
    if TAKEN.swap(true, Ordering::SeqCst) {
        // By now these may be the numbers of other files.
        return Ok(Vec::new());
    }
    let numbers = FIRST..FIRST.saturating_add(count.max(0));
    for number in numbers.clone() {
        let was_passed_in = was_passed_in(number).and_then(|was_passed_in| match was_passed_in {
            true => Ok(()),
            false => Err(invalid(format!(
                "LISTEN_FDS announces {count} descriptors, but {number} was not passed in: \
                 this program opened it"
            ))),
        });
        was_passed_in.inspect_err(|_| TAKEN.store(false, Ordering::SeqCst))?;
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names =
        names.split(':').map(|name| Some(name.to_owned()).filter(|name| !name.is_empty()));
    let taken = numbers.map(|number| {
        close_on_exec(number)?;
        // SAFETY: the descriptor is open. By the protocol it belongs to this process, to the first
        // that takes it, and `TAKEN` says that this is the first.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        Ok(ListenFd { descriptor, name: names.next().flatten() })
    });
    taken.collect()
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Whether a descriptor may have been passed in.
///
/// It may if it stays open across exec: std and this crate open no such descriptor. It may also if
/// it is a socket, because other code in this process may have received it and set `FD_CLOEXEC`.
fn was_passed_in(number: RawFd) -> io::Result<bool> {
    // SAFETY: takes two numbers. A descriptor that is not open is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and stays open for the call: no other code may touch what is passed in.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(flags & libc::FD_CLOEXEC == 0 || SockRef::from(&descriptor).r#type().is_ok())
}

/// Prevents programs that this one starts from inheriting the descriptor.
fn close_on_exec(number: RawFd) -> io::Result<()> {
    // SAFETY: takes three numbers.
    match unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A socket that a supervisor passed in: see [`listen_fds`].
///
/// ```
/// # ebbtide::run(async {
/// for passed_in in ebbtide::net::listen_fds()? {
///     match passed_in.name() {
///         Some("statsd") => { passed_in.into_udp_socket()?; }
///         other => eprintln!("unexpected socket {other:?}"),
///     }
/// }
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct ListenFd {
    descriptor: OwnedFd,
    name: Option<String>,
}

impl ListenFd {
    /// The name of the socket (`FileDescriptorName=` in systemd). `None` if the supervisor named
    /// none.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Turns the descriptor into a UDP socket with [`Exit::Leave`].
    ///
    /// # Errors
    ///
    /// Those of [`UdpSocket::from_std`], for example that it is not a UDP socket.
    pub fn into_udp_socket(self) -> io::Result<UdpSocket> {
        self.into_udp_socket_with(&UdpSocket::options().exit(Exit::Leave))
    }

    /// Turns the descriptor into a UDP socket with `options`: see [`UdpOptions::from_std`]. Its
    /// exit is that of `options`.
    ///
    /// # Errors
    ///
    /// Those of [`UdpOptions::from_std`], for example that it is not a UDP socket.
    pub fn into_udp_socket_with(self, options: &UdpOptions) -> io::Result<UdpSocket> {
        options.from_std(self.descriptor.into())
    }

    /// Turns the descriptor into a Unix datagram socket with [`Exit::Leave`].
    ///
    /// # Errors
    ///
    /// Those of [`UnixDatagram::from_std`], for example that it is not a Unix datagram socket.
    pub fn into_unix_datagram(self) -> io::Result<UnixDatagram> {
        UnixDatagram::adopt(self.descriptor.into(), Exit::Leave)
    }
}

impl std::os::fd::AsFd for ListenFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl From<ListenFd> for OwnedFd {
    fn from(passed_in: ListenFd) -> Self {
        passed_in.descriptor
    }
}
