//! What a process may do and use: resource limits, users and capabilities. For tests in a separate
//! process.

// UNSAFETY: limits, users and capabilities have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::io;
use std::thread;

use crate::checked;

const NOBODY: libc::uid_t = 65_534;

/// Limits how much of `resource` (`libc::RLIMIT_*`) this process may use. The hard limit stays.
pub fn limit(resource: libc::__rlimit_resource_t, most: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: points to a limit of ours.
    checked(unsafe { libc::getrlimit(resource, &raw mut limit) }).expect("the resource exists");
    limit.rlim_cur = most.min(limit.rlim_max);
    // SAFETY: points to a limit of ours.
    checked(unsafe { libc::setrlimit(resource, &raw const limit) }).expect("below the hard limit");
}

/// Limits the locked memory of this process for good. If the process belongs to root, it becomes
/// another user's, because limits do not apply to root.
pub fn limit_locked_memory(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: `limit` is valid and lives as long as the call.
    let limited = checked(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) });
    limited.expect("a process may lower its limit");
    // SAFETY: takes and returns plain numbers.
    if unsafe { libc::geteuid() } == 0 {
        // SAFETY: takes plain numbers. Changes only this process, which runs one test.
        checked(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) })
            .expect("root may change the user");
    }
}

/// Runs `f` on a thread of another user, without privileges, to which that user's limits apply.
/// Returns `None` if this process lacks the right for that.
pub fn as_another_user<T: Send>(f: impl FnOnce() -> T + Send) -> Option<T> {
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            // The system call itself, because the function of libc would change all threads.
            // SAFETY: takes numbers.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
            if result != 0 {
                println!("skipped: no other user: {}", io::Error::last_os_error());
                return None;
            }
            Some(f())
        });
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Takes `CAP_IPC_LOCK` from this thread. With it, as for root, `RLIMIT_MEMLOCK` does not apply.
pub fn drop_the_right_to_lock_memory() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_IPC_LOCK: u32 = 14;
    // capabilities(7): a version, and a thread (0 is this one). Then the effective, permitted and
    // inheritable sets, the low 32 bits of each before the high ones.
    let header = [VERSION_3, 0];
    let mut sets = [0u32; 6];
    // SAFETY: the memory is as capget(2) wants it.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    checked(result as i32).expect("a thread can read its own capabilities");
    sets[..2].iter_mut().for_each(|set| *set &= !(1 << CAP_IPC_LOCK));
    // SAFETY: the memory is as capset(2) wants it.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    checked(result as i32).expect("a thread may drop a capability");
}
