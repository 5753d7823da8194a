//! System calls that the kernel refuses. A seccomp filter is installed on a new thread, so that the
//! test runner and other tests are not affected. Filters apply to a thread and cannot be removed.
//! This needs no privilege.
//!
//! `seccompiler` compiles the filters. They kill a thread that makes calls of another architecture.

use std::io;
use std::ops::RangeInclusive;
use std::thread;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Runs `f` on a new thread where every call of `syscall` (`libc::SYS_*`) fails with `errno`.
pub fn with_refused<T: Send>(syscall: libc::c_long, errno: i32, f: impl FnOnce() -> T + Send) -> T {
    with_refused_if(syscall, 0, 0..=u32::MAX, errno, f)
}

/// Runs `f` on a new thread where calls of `syscall` fail with `errno` if the low 32 bits of one
/// argument are in `range`. What `f` passes decides which calls fail.
pub fn with_refused_if<T: Send>(
    syscall: libc::c_long,
    argument: u8,
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

/// Installs the filter on this thread, and on the threads that it starts from now on, for good.
fn refuse(
    syscall: libc::c_long,
    argument: u8,
    range: RangeInclusive<u32>,
    errno: i32,
) -> Result<(), seccompiler::Error> {
    let is = |operator, value: u32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
    };
    let in_range = SeccompRule::new(vec![
        is(SeccompCmpOp::Ge, *range.start())?,
        is(SeccompCmpOp::Le, *range.end())?,
    ])?;
    install(syscall, vec![in_range], SeccompAction::Errno(errno as u32))
}

/// Makes each call of `syscall` raise SIGSYS, on this thread and on the threads that it starts from
/// now on. A call whose argument of this index has `pass` in its upper half is let through. The
/// kernel reads only the lower half of an argument that is an `int`, and ignores an argument that a
/// call does not have. So the signal handler can still make the call.
pub(crate) fn trap(syscall: libc::c_long, argument: u8, pass: u32) -> io::Result<()> {
    let is = |operator, value: u64| {
        SeccompRule::new(vec![SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Qword,
            operator,
            value,
        )?])
    };
    let lowest = u64::from(pass) << 32;
    let others = || {
        let below = is(SeccompCmpOp::Lt, lowest)?;
        let above = is(SeccompCmpOp::Gt, lowest | u64::from(u32::MAX))?;
        install(syscall, vec![below, above], SeccompAction::Trap)
    };
    others().map_err(io::Error::other)
}

fn install(
    syscall: libc::c_long,
    rules: Vec<SeccompRule>,
    action: SeccompAction,
) -> Result<(), seccompiler::Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let rules = [(syscall, rules)].into_iter().collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)?;
    apply_filter(&BpfProgram::try_from(filter)?)
}
