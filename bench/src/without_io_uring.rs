//! Runs a program with `io_uring_setup` refused by a seccomp filter, which it and all its children
//! inherit. Needs no privilege.

// UNSAFETY: prctl takes the address of a filter.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::mem::offset_of;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Becomes `program`; returns only if that fails.
pub(crate) fn exec(program: &str, arguments: &[&str]) -> io::Error {
    match refuse_io_uring() {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    }
}

fn refuse_io_uring() -> io::Result<()> {
    let instruction = |code: u32, operand: u32, skip_if_false: u8| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: skip_if_false,
        k: operand,
    };
    let number = offset_of!(libc::seccomp_data, nr) as u32;
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, number, 0),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::SYS_io_uring_setup as u32,
            1,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, refused, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let filter =
        libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: takes plain numbers. Without it only a privileged process may install a filter.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: `filter` and the program that it points to outlive the call, which copies them.
    checked(unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter)
    })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
