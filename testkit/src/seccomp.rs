//! System calls that the kernel refuses: a seccomp filter on a thread made for it, so that the test
//! runner and other tests are not hit. Filters are per thread and cannot be taken off again. Needs
//! no privilege.
//!
//! `seccompiler` writes the programs, and kills a thread that makes calls of another architecture.

use std::io;
use std::ops::RangeInclusive;
use std::thread;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Runs `f` on a thread of its own where every call of `syscall` (`libc::SYS_*`) fails with
/// `errno`.
pub fn with_refused<T: Send>(syscall: libc::c_long, errno: i32, f: impl FnOnce() -> T + Send) -> T {
    with_refused_if(syscall, 0, 0..=u32::MAX, errno, f)
}

/// As [`with_refused`], but only calls whose argument of this index (its low 32 bits) is in `range`
/// fail: `f` decides by what it does when that is over.
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

/// Puts the filter on this thread, and on what it starts from now on, for good.
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

/// Makes each call of `syscall` raise SIGSYS instead, on this thread and on what it starts from now
/// on, unless the upper half of its argument of this index is `pass`. The kernel reads only the
/// lower half of an argument that is an `int`, and ignores an argument that a call does not have.
/// This is how the handler of the signal can still make the call.
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
