//! What a process may do and use: resource limits, users and capabilities. For tests in a process
//! of their own.

// UNSAFETY: limits, users and capabilities have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::thread;

use crate::checked;

const NOBODY: libc::uid_t = 65_534;

/// Limits what this process may use of `resource` (`libc::RLIMIT_*`), as far as it may raise that
/// again.
pub fn limit(resource: libc::__rlimit_resource_t, most: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: points to a limit of ours.
    checked(unsafe { libc::getrlimit(resource, &raw mut limit) }).expect("it is a resource");
    limit.rlim_cur = most.min(limit.rlim_max);
    // SAFETY: points to a limit of ours.
    checked(unsafe { libc::setrlimit(resource, &raw const limit) }).expect("it is no more");
}

/// Limits the locked memory of this process for good. If it is root's, it becomes another user's,
/// whom limits bind.
pub fn limit_locked_memory(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: `limit` is valid and lives as long as the call.
    let limited = checked(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) });
    limited.expect("it is less than before");
    // SAFETY: takes and returns plain numbers.
    if unsafe { libc::geteuid() } == 0 {
        // SAFETY: takes plain numbers. Of this process only, which is the test's own.
        checked(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }).expect("root may");
    }
}

/// Runs `f` on a thread that belongs to another user, without privileges, who is held to limits of
/// his own. `None` where this takes a right that we do not have.
pub fn as_another_user<T: Send>(f: impl FnOnce() -> T + Send) -> Option<T> {
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            // The call itself, and not that of libc, which would change all threads.
            // SAFETY: takes numbers.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
            if result != 0 {
                println!("skipped: another user: {}", io::Error::last_os_error());
                return None;
            }
            Some(f())
        });
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Takes `CAP_IPC_LOCK` from this thread: who has it, as root has, is not held to `RLIMIT_MEMLOCK`.
pub fn drop_the_right_to_lock_memory() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_IPC_LOCK: u32 = 14;
    // capabilities(7): a version and a thread (0: this one); then effective, permitted and
    // inheritable, the low 32 bits of each before the high ones.
    let header = [VERSION_3, 0];
    let mut sets = [0u32; 6];
    // SAFETY: the memory is as capget(2) wants it.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    checked(result as i32).expect("of this thread they are readable");
    sets[..2].iter_mut().for_each(|set| *set &= !(1 << CAP_IPC_LOCK));
    // SAFETY: the memory is as capset(2) wants it.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    checked(result as i32).expect("to drop one is allowed");
}
