//! Tests in a separate network namespace, which has its own loopback interface and settings.

// UNSAFETY: namespaces, mounts and interface flags have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::thread;
use std::time::Duration;

use crate::checked;
use crate::child::{Beside, start, test_of};

/// Runs `body` in a separate process, in a new network namespace. Loopback is up, and its sysfs is
/// mounted at /sys. If this is not permitted, prints why and skips `body`.
pub fn in_a_namespace<F: FnOnce()>(beside: Beside, body: F) {
    let started = start(test_of::<F>(), beside, unshare_at_start, || {
        if let Err(error) = set_up() {
            return println!("skipped: no separate network namespace: {error}");
        }
        body();
    });
    if let Err(error) = started {
        println!("skipped: no separate network namespace: {error}");
    }
}

/// Runs between fork and exec, where the process has one thread. A user namespace requires that.
fn unshare_at_start(child: &mut Command) {
    // SAFETY: takes nothing.
    let user = unsafe { libc::getuid() };
    // SAFETY: takes nothing.
    let group = unsafe { libc::getgid() };
    // Allocated here, because nothing may be allocated between fork and exec.
    let files = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {user} 1")),
        ("/proc/self/gid_map", format!("0 {group} 1")),
    ];
    let files = files.map(|(path, text)| (CString::new(path).expect("the path has no NUL"), text));
    let unshare = move || {
        let own = libc::CLONE_NEWNET | libc::CLONE_NEWNS;
        // SAFETY: takes a number.
        if unsafe { libc::unshare(own) } == 0 {
            return Ok(());
        }
        // A process without the right has it in a user namespace.
        // SAFETY: takes a number.
        checked(unsafe { libc::unshare(own | libc::CLONE_NEWUSER) })?;
        files.iter().try_for_each(|(path, text)| {
            // SAFETY: a path that ends in NUL.
            let file = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
            checked(file)?;
            // SAFETY: the bytes and their length.
            let written = unsafe { libc::write(file, text.as_ptr().cast(), text.len()) };
            checked(written as i32)
        })
    };
    // SAFETY: it only makes system calls.
    unsafe { child.pre_exec(unshare) };
}

fn set_up() -> io::Result<()> {
    keep_mounts_private()?;
    let (kind, place) = (c"sysfs".as_ptr(), c"/sys".as_ptr());
    // SAFETY: strings that end in NUL. Null means no value.
    checked(unsafe { libc::mount(kind, place, kind, 0, ptr::null()) })?;
    loopback_up()
}

/// Mounts `file` over `target`, for this thread only.
///
/// # Errors
///
/// Fails without the right to mount.
pub fn mount_privately(file: &str, target: &str) -> io::Result<()> {
    let [file, target] =
        [file, target].map(|path| CString::new(path).expect("the path has no NUL"));
    // SAFETY: takes a number.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    keep_mounts_private()?;
    let (file, target) = (file.as_ptr(), target.as_ptr());
    // SAFETY: two paths that end in NUL. Null means no value.
    checked(unsafe { libc::mount(file, target, ptr::null(), libc::MS_BIND, ptr::null()) })
}

/// Hides later mounts from the namespace that this one was copied from.
fn keep_mounts_private() -> io::Result<()> {
    let (root, flags) = (c"/".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: a path that ends in NUL. Null means no value.
    checked(unsafe { libc::mount(ptr::null(), root, ptr::null(), flags, ptr::null()) })
}

fn loopback_up() -> io::Result<()> {
    // std cannot make an unbound socket, which would do. This is the only address that can be bound
    // yet.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is as SIOCSIFFLAGS wants it.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    checked(result)
}

/// Adds an IPv4 address to loopback.
///
/// # Errors
///
/// Those of SIOCSIFADDR.
pub fn add_address_v4(address: Ipv4Addr) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // An alias, so that the address does not replace another.
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo:1") {
        *to = *from as libc::c_char;
    }
    let mut data = [0; 14];
    for (to, from) in data[2..].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_addr = libc::sockaddr { sa_family: libc::AF_INET as u16, sa_data: data };
    // SAFETY: the request is as SIOCSIFADDR wants it of an IPv4 socket.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCSIFADDR as _, &raw const request) };
    checked(result)
}

/// Adds an IPv6 address to loopback, and returns the index of the interface.
///
/// # Errors
///
/// Fails without IPv6, or without the right to add an address.
pub fn add_address_v6(address: &str) -> io::Result<u32> {
    /// `struct in6_ifreq`, which libc does not define on every target.
    #[repr(C)]
    struct Request {
        address: [u8; 16],
        prefix: u32,
        index: i32,
    }
    let name = CString::new("lo").expect("the name has no NUL");
    // SAFETY: a name that ends in NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let address: Ipv6Addr = address.parse().map_err(io::Error::other)?;
    let request = Request { address: address.octets(), prefix: 64, index: index as i32 };
    let socket = UdpSocket::bind("[::]:0")?;
    // SAFETY: the request is as SIOCSIFADDR wants it of an IPv6 socket.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCSIFADDR as _, &raw const request) };
    checked(result)?;
    // The address is usable once the kernel has checked that nobody else has it. From then on it
    // can be bound, and a little later it receives.
    let address = SocketAddrV6::new(address, 0, 0, index);
    for _ in 0..1_000 {
        if hears_itself(address).is_ok() {
            return Ok(index);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Err(io::ErrorKind::AddrNotAvailable.into())
}

fn hears_itself(address: SocketAddrV6) -> io::Result<usize> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    socket.send_to(b"?", socket.local_addr()?)?;
    socket.recv(&mut [0])
}

/// netdevice(7).
const SIOCSIFADDR: u32 = 0x8916;

/// Lets the CPUs of `mask` process what is received on loopback (RPS, receive packet steering).
///
/// # Errors
///
/// Those of writing the file, also if the kernel has no RPS.
pub fn steer_to(mask: u32) -> io::Result<()> {
    fs::write("/sys/class/net/lo/queues/rx-0/rps_cpus", format!("{mask:x}"))
}

/// Pins this thread to one CPU.
///
/// # Errors
///
/// Fails if this process may not use that CPU.
pub fn stay_on(cpu: usize) -> io::Result<()> {
    // SAFETY: an all-zero set is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is checked against the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set and its size.
    checked(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })
}
