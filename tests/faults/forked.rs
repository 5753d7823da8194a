//! A forked child lives on while its parent shuts down. It has inherited the ring and the sockets,
//! and keeps both alive; it must not keep the receives alive with them.

// UNSAFETY: fork, mmap, kill and waitpid have no safe form.
#![expect(unsafe_code, reason = "argued above")]

use std::net::SocketAddr;
use std::ptr;

use ebbtide::net::UnixAddr;

use crate::child::in_a_child;
use crate::faults::Watchdog;
use crate::program;
use crate::support::{Shape, Transport, left_in_queue};

/// A copy of this process that does nothing; ended when this is dropped.
struct Fork(libc::pid_t);

impl Fork {
    fn new() -> Self {
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: takes nothing.
                unsafe { libc::pause() };
            },
            id => {
                assert!(id > 0, "{}", std::io::Error::last_os_error());
                Self(id)
            }
        }
    }

    fn is_alive(&self) -> bool {
        // SAFETY: takes numbers; nothing is asked for.
        unsafe { libc::waitpid(self.0, ptr::null_mut(), libc::WNOHANG) == 0 }
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        // SAFETY: takes numbers, of a child of ours that nobody has waited for.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: as above.
        unsafe { libc::waitpid(self.0, ptr::null_mut(), 0) };
    }
}

/// Memory where that of the runtime was, as far as the kernel puts it there. It must stay zero.
struct Bait {
    start: *const u8,
    len: usize,
}

impl Bait {
    fn new(len: usize) -> Self {
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, kind, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start: start.cast(), len }
    }

    fn is_untouched(&self) -> bool {
        // SAFETY: the mapping just made, which nobody writes, unless what is tested fails.
        let bytes = unsafe { std::slice::from_raw_parts(self.start, self.len) };
        bytes.iter().all(|&byte| byte == 0)
    }
}

/// Runs the program, forks half-way, and has the child outlive the runtime.
fn run<T: Transport>(shape: Shape, seed: u64) -> (program::Finished<T>, Fork) {
    let run = format!("{}, {}, seed {seed}", shape.name, std::any::type_name::<T>());
    let mut fork = None;
    let mut finished = program::run_with::<T>(shape.runtime(), seed, || fork = Some(Fork::new()));
    let fork = fork.expect("the program came to its middle");
    assert!(fork.is_alive(), "{run}");
    finished.check(&[], &run);
    (finished, fork)
}

#[test]
fn a_child_that_outlives_the_runtime_of_its_parent_takes_nothing() {
    in_a_child("forked::a_child_that_outlives_the_runtime_of_its_parent_takes_nothing", || {
        let _watchdog = Watchdog::new("a child lives on");
        for (seed, shape) in (0..).zip(Shape::ALL.into_iter().cycle()).take(8) {
            run::<UnixAddr>(shape, seed);
            let (finished, _alive) = run::<SocketAddr>(shape, seed);
            // The sockets are open in the child, and here, without their seal. What they receive from now on stays in
            // their queues: nobody is there to take it, or to write it anywhere.
            let bait = Bait::new(512 * 66_000);
            for channel in &finished.channels {
                for number in 0..10 {
                    channel.sender.send(&[number + 1; 1_000]).unwrap();
                }
                assert_eq!(left_in_queue(&channel.watch), 10, "{}", shape.name);
            }
            assert!(bait.is_untouched(), "{}: freed memory was written", shape.name);
        }
    });
}
