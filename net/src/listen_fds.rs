//! Socket activation: the sockets that a supervisor bound and passed in.
//!
//! The crates that read this protocol remove its variables from the environment, which is sound only
//! in a program of one thread. Here they stay, and the descriptors are taken once.

// UNSAFETY: a descriptor that was passed in is known by its number.
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

/// True once the descriptors were taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the sockets that a supervisor passed in (`LISTEN_FDS`, `LISTEN_FDNAMES`, sd_listen_fds(3)):
/// none if it passed none to this process, and none the second time.
///
/// Their queues outlive this program. So they are not sealed at its exit but left:
/// [`Exit::Leave`], unless another [`Exit`] is set.
///
/// ```
/// # ebbtide_net::doc_run(async {
/// use ebbtide_net::{UdpSocket, listen_fds};
///
/// let socket = match listen_fds()?.into_iter().next() {
///     Some(passed_in) => passed_in.into_udp_socket()?,
///     None => UdpSocket::bind("127.0.0.1:0")?,
/// };
/// # let _ = socket;
/// # std::io::Result::Ok(())
/// # });
/// ```
///
/// # Errors
///
/// `EBADF` if a descriptor that `LISTEN_FDS` announces is not open; `InvalidData` if it is no number, or
/// if it announces more than was passed in and the next descriptor is one that this program opened: no
/// socket, and closed by exec (`FD_CLOEXEC`). No descriptor is taken then.
pub fn listen_fds() -> io::Result<Vec<ListenFd>> {
    let is_for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == process::id().to_string());
    let Some(count) = env::var_os("LISTEN_FDS").filter(|_| is_for_us) else {
        return Ok(Vec::new());
    };
    let count: RawFd = count
        .to_str()
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| invalid(format!("LISTEN_FDS is no number: {count:?}")))?;
    if TAKEN.swap(true, Ordering::SeqCst) {
        // The numbers may be those of other files by now.
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
        // SAFETY: the descriptor is open, and by the protocol it is this process's, for whoever asks
        // first, which `TAKEN` says that we are.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        Ok(ListenFd { descriptor, name: names.next().flatten() })
    });
    taken.collect()
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Whether a descriptor may have been passed in: it came by exec, which what std and this crate open does
/// not; or it is a socket, which somebody in this process may have taken over for us.
fn was_passed_in(number: RawFd) -> io::Result<bool> {
    // SAFETY: takes two numbers; a descriptor that is not open is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and stays so for the call: nobody else is to touch what is passed in.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(flags & libc::FD_CLOEXEC == 0 || SockRef::from(&descriptor).r#type().is_ok())
}

/// Makes sure that programs which this one starts do not inherit a descriptor.
fn close_on_exec(number: RawFd) -> io::Result<()> {
    // SAFETY: takes three numbers.
    match unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A socket that a supervisor passed in.
#[derive(Debug)]
pub struct ListenFd {
    descriptor: OwnedFd,
    name: Option<String>,
}

impl ListenFd {
    /// Its name (`FileDescriptorName=` in systemd), if the supervisor gave names.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Takes it for a UDP socket, which is left at the exit.
    ///
    /// # Errors
    ///
    /// That it is none; those of [`UdpSocket::from_std`].
    pub fn into_udp_socket(self) -> io::Result<UdpSocket> {
        self.into_udp_socket_with(&UdpSocket::options().exit(Exit::Leave))
    }

    /// Takes it for a UDP socket with `options`, as [`UdpOptions::from_std`] does.
    ///
    /// # Errors
    ///
    /// That it is none; those of [`UdpOptions::from_std`].
    pub fn into_udp_socket_with(self, options: &UdpOptions) -> io::Result<UdpSocket> {
        options.from_std(self.descriptor.into())
    }

    /// Takes it for a Unix datagram socket, which is left at the exit.
    ///
    /// # Errors
    ///
    /// That it is none; those of [`UnixDatagram::from_std`].
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
