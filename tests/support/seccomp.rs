//! System calls that the kernel refuses: a seccomp filter on a thread made for it, so that the test
//! runner and other tests are not hit. Filters are per thread and cannot be taken off again. Needs
//! no privilege.

// UNSAFETY: prctl takes the address of a filter.
#![expect(unsafe_code, reason = "argued above")]
#![allow(unreachable_pub, reason = "it is a module of each test binary")]
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::io;
use std::mem::offset_of;
use std::ops::RangeInclusive;
use std::thread;

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{seccomp_data, sock_filter};

/// `AUDIT_ARCH_*` of audit(8): what the numbers of system calls mean depends on it.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Runs `f` on a thread of its own where every call of `syscall` (`libc::SYS_*`) fails with
/// `errno`.
pub fn with_refused<T: Send>(syscall: libc::c_long, errno: i32, f: impl FnOnce() -> T + Send) -> T {
    with_refused_if(syscall, 0, 0..=u32::MAX, errno, f)
}

/// As `with_refused`, but only calls whose argument of this index (its low 32 bits) is in `range`
/// fail: `f` decides by what it does when that is over.
pub fn with_refused_if<T: Send>(
    syscall: libc::c_long,
    argument: usize,
    range: RangeInclusive<u32>,
    errno: i32,
    f: impl FnOnce() -> T + Send,
) -> T {
    thread::scope(|scope| {
        let refused = scope.spawn(move || {
            refuse(syscall, argument, range, errno).expect("the kernel has seccomp filters");
            f()
        });
        refused.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Puts the filter on this thread, and on what it starts from now on, for good.
pub fn refuse(
    syscall: libc::c_long,
    argument: usize,
    range: RangeInclusive<u32>,
    errno: i32,
) -> io::Result<()> {
    let program = [
        load(offset_of!(seccomp_data, arch)),
        skip_unless_equal(ARCHITECTURE, 6),
        load(offset_of!(seccomp_data, nr)),
        skip_unless_equal(syscall as u32, 4),
        load(offset_of!(seccomp_data, args) + 8 * argument),
        skip_if_less(*range.start(), 2),
        skip_if_greater(*range.end(), 1),
        give(libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA)),
        give(libc::SECCOMP_RET_ALLOW),
    ];
    install(&program)
}

/// Has each call of `syscall` raise SIGSYS instead, on this thread and on what it starts from now
/// on, unless the upper half of its argument of this index is `pass`. The kernel looks at the lower
/// half only where that argument is an `int`, and at nothing where there is none: which is how the
/// handler makes the call after all.
pub fn trap(syscall: libc::c_long, argument: usize, pass: u32) -> io::Result<()> {
    install(&[
        load(offset_of!(seccomp_data, arch)),
        skip_unless_equal(ARCHITECTURE, 5),
        load(offset_of!(seccomp_data, nr)),
        skip_unless_equal(syscall as u32, 3),
        load(offset_of!(seccomp_data, args) + 8 * argument + UPPER_HALF),
        skip_if_equal(pass, 1),
        give(libc::SECCOMP_RET_TRAP),
        give(libc::SECCOMP_RET_ALLOW),
    ])
}

/// Where the upper half of a number of 64 bits lies.
const UPPER_HALF: usize = if cfg!(target_endian = "little") { 4 } else { 0 };

fn install(program: &[sock_filter]) -> io::Result<()> {
    let filter =
        libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: takes plain numbers. Without it only a privileged thread may install a filter.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: `filter` and the program that it points to outlive the call, which copies them.
    checked(unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter)
    })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn load(offset: usize) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset as u32, 0, 0)
}

/// Skips some instructions unless what was loaded is equal to `value`.
fn skip_unless_equal(value: u32, skip: u8) -> sock_filter {
    instruction(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip)
}

/// Skips some instructions if what was loaded is equal to `value`.
fn skip_if_equal(value: u32, skip: u8) -> sock_filter {
    instruction(BPF_JMP | BPF_JEQ | BPF_K, value, skip, 0)
}

/// Skips some instructions if what was loaded is less than `value`.
fn skip_if_less(value: u32, skip: u8) -> sock_filter {
    instruction(BPF_JMP | BPF_JGE | BPF_K, value, 0, skip)
}

/// Skips some instructions if what was loaded is greater than `value`.
fn skip_if_greater(value: u32, skip: u8) -> sock_filter {
    instruction(BPF_JMP | BPF_JGT | BPF_K, value, skip, 0)
}

fn give(answer: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, answer, 0, 0)
}

fn instruction(code: u32, operand: u32, skip_if_true: u8, skip_if_false: u8) -> sock_filter {
    sock_filter { code: code as u16, jt: skip_if_true, jf: skip_if_false, k: operand }
}
