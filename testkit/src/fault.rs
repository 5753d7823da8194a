//! System calls that fail at chosen moments: the k-th call, every k-th call, or several in a row
//! from the k-th on. This needs no privilege and no tool.
//!
//! A seccomp filter (`seccomp::trap`) makes the calls of one thread raise SIGSYS. The handler runs
//! on that thread, in place of the call. It counts the call. Then it either returns an errno or
//! makes the call, with a marked argument, which the filter lets through.

// UNSAFETY: a signal handler that reads and writes registers, and makes any system call.
#![expect(unsafe_code, reason = "argued above")]

use std::cell::Cell;
use std::io;
use std::mem;
use std::ops::AddAssign;
use std::ptr;
use std::sync::Once;
use std::thread;

use crate::seccomp::trap;

/// The mark of the calls that the handler makes.
const PASS: u32 = 0x0ebb_71de;

/// The number of calls after which a thread counts as stuck in a loop. The programs that run with
/// faults make a few thousand.
const MOST_CALLS: u64 = 2_000_000;

/// Which calls fail, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The number of the system call (`libc::SYS_*`).
    pub syscall: libc::c_long,
    /// The first call that fails, counted from 1. With 0 none fails, and calls are only counted.
    pub from: u64,
    /// From then on every `every`-th call fails. With 1, all.
    pub every: u64,
    /// The largest number of calls that fail.
    pub most: u64,
    /// How they fail.
    pub manner: Manner,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// The call does nothing and returns this errno.
    Refuse(i32),
    /// `io_uring_enter` takes no entry, but posts the completions that are pending, and returns
    /// this errno. This is what happens when a signal interrupts the wait.
    RefuseAfterWork(i32),
    /// `io_uring_enter` takes half of the entries, rounded down, and does not wait. This is what
    /// happens when memory runs out in the middle.
    TakeHalf,
}

impl Fault {
    /// Only the `k`-th call fails.
    pub fn once(syscall: libc::c_long, k: u64, manner: Manner) -> Self {
        Self { syscall, from: k, every: 1, most: 1, manner }
    }

    /// Every `k`-th call fails.
    pub fn every(syscall: libc::c_long, k: u64, manner: Manner) -> Self {
        Self { syscall, from: k, every: k, most: u64::MAX, manner }
    }

    /// From the `k`-th on, `most` calls fail in a row.
    pub fn burst(syscall: libc::c_long, k: u64, most: u64, manner: Manner) -> Self {
        Self { syscall, from: k, every: 1, most, manner }
    }
}

/// What the handler has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that were made.
    pub calls: u64,
    /// Calls that failed.
    pub failures: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.failures += other.failures;
    }
}

thread_local! {
    // Initialized at compile time and never dropped, because a signal handler may read it.
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
    static TALLY: Cell<Tally> = const { Cell::new(Tally { calls: 0, failures: 0 }) };
}

/// Runs `f` on a new thread, with `fault`. Returns what `f` returned, and how many calls failed.
/// Threads that `f` starts are not affected.
pub fn with_fault<T: Send>(fault: Fault, f: impl FnOnce() -> T + Send) -> (T, Tally) {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| install_handler().expect("SIGSYS can be handled"));
    thread::scope(|scope| {
        let faulty = scope.spawn(move || {
            let trapped = trap(fault.syscall, marked(fault.syscall), PASS);
            trapped.expect("the kernel has seccomp filters");
            FAULT.set(Some(fault));
            let result = f();
            FAULT.set(None);
            (result, TALLY.get())
        });
        faulty.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The tally of this thread so far.
pub fn tally() -> Tally {
    TALLY.get()
}

fn install_handler() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO;
    action.sa_sigaction = on_sigsys as *const () as usize;
    // SAFETY: the handler lives for ever and does only what a handler may.
    let result = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs in place of a system call. Calls only what is async-signal-safe.
extern "C" fn on_sigsys(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the context that the signal interrupted.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let (number, arguments) = call(context);
    let result = match FAULT.get() {
        Some(fault) if fault.syscall == number => answer(fault, arguments),
        _ => make(number, arguments),
    };
    set_result(context, result);
}

fn answer(fault: Fault, mut arguments: [usize; 6]) -> isize {
    let mut tally = TALLY.get();
    tally.calls += 1;
    if tally.calls > MOST_CALLS {
        give_up();
    }
    let strikes = fault.from > 0
        && tally.calls >= fault.from
        && (tally.calls - fault.from).is_multiple_of(fault.every)
        && tally.failures < fault.most;
    tally.failures += u64::from(strikes);
    TALLY.set(tally);
    if !strikes {
        return make(fault.syscall, arguments);
    }
    let [_, to_submit, least, ..] = &mut arguments;
    match fault.manner {
        Manner::Refuse(errno) => -(errno as isize),
        Manner::RefuseAfterWork(errno) => {
            (*to_submit, *least) = (0, 0);
            make(fault.syscall, arguments);
            -(errno as isize)
        }
        Manner::TakeHalf => {
            (*to_submit, *least) = (*to_submit / 2, 0);
            make(fault.syscall, arguments)
        }
    }
}

/// The argument whose upper half the kernel ignores. This is the sixth if the call has only five,
/// otherwise the first, which is a descriptor.
fn marked(syscall: libc::c_long) -> u8 {
    match syscall {
        libc::SYS_io_uring_enter
        | libc::SYS_epoll_pwait
        | libc::SYS_sendto
        | libc::SYS_recvfrom => 0,
        _ => 5,
    }
}

/// Makes the call past the filter, and returns what the kernel returned.
fn make(number: libc::c_long, mut arguments: [usize; 6]) -> isize {
    let marked = &mut arguments[usize::from(marked(number))];
    *marked = *marked & u32::MAX as usize | (PASS as usize) << 32;
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: the arguments are those of a call that the thread was about to make.
    let result = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    match result {
        -1 => -(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) as isize),
        result => result as isize,
    }
}

/// A thread that calls for ever hangs, and a handler cannot panic.
fn give_up() -> ! {
    let message = b"a system call was made millions of times: the program is stuck in a loop\n";
    // SAFETY: the bytes and their length.
    unsafe { libc::write(2, message.as_ptr().cast(), message.len()) };
    // SAFETY: takes nothing.
    unsafe { libc::abort() }
}

/// The number and the arguments of the call that was interrupted.
#[cfg(target_arch = "x86_64")]
fn call(context: &libc::ucontext_t) -> (libc::c_long, [usize; 6]) {
    use libc::{REG_R8, REG_R9, REG_R10, REG_RAX, REG_RDI, REG_RDX, REG_RSI};
    let register = |index: i32| context.uc_mcontext.gregs[index as usize];
    let arguments = [REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9];
    (register(REG_RAX), arguments.map(|index| register(index) as usize))
}

#[cfg(target_arch = "x86_64")]
fn set_result(context: &mut libc::ucontext_t, result: isize) {
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = result as i64;
}

#[cfg(target_arch = "aarch64")]
fn call(context: &libc::ucontext_t) -> (libc::c_long, [usize; 6]) {
    let registers = &context.uc_mcontext.regs;
    (registers[8] as libc::c_long, [0, 1, 2, 3, 4, 5].map(|index| registers[index] as usize))
}

#[cfg(target_arch = "aarch64")]
fn set_result(context: &mut libc::ucontext_t, result: isize) {
    context.uc_mcontext.regs[0] = result as u64;
}
