//! The signal handler. It counts signals and wakes the runtimes that listen.

// UNSAFETY: code that runs in a signal handler has to be async-signal-safe.
#![expect(unsafe_code, reason = "argued above")]

mod count;
mod listeners;

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::register;
use slab::Slab;

use self::count::{Count, is_later};
use self::listeners::Listening;
use crate::process::Process;

/// The signals that a program can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Terminate,
    Interrupt,
}

/// All of them.
pub(crate) const SOURCES: [Source; 2] = [Source::Terminate, Source::Interrupt];

/// What the process knows of each signal.
static ARRIVALS: [Arrivals; SOURCES.len()] = [Arrivals::new(), Arrivals::new()];

struct Arrivals {
    /// True after the handler was installed, which stays.
    is_counted: AtomicBool,
    /// Locked while the handler is installed.
    installing: Mutex<()>,
    came: Count,
    /// How many signals were reported to some runtime.
    reported: Count,
}

impl Arrivals {
    const fn new() -> Self {
        Self {
            is_counted: AtomicBool::new(false),
            installing: Mutex::new(()),
            came: Count::new(),
            reported: Count::new(),
        }
    }
}

impl Source {
    fn arrivals(self) -> &'static Arrivals {
        &ARRIVALS[self as usize]
    }

    /// How many signals were reported to any runtime of the process.
    pub(crate) fn reported(self, process: Process) -> u32 {
        self.arrivals().reported.get(process)
    }

    /// Whether more than `known` have come.
    pub(crate) fn has_come_since(self, known: u32, process: Process) -> bool {
        is_later(self.arrivals().came.get(process), known)
    }

    fn signal(self) -> c_int {
        match self {
            Self::Terminate => SIGTERM,
            Self::Interrupt => SIGINT,
        }
    }

    /// Installs the handler, which counts this signal from now on.
    pub(crate) fn count(self) -> io::Result<()> {
        let arrivals = self.arrivals();
        // Checked without the lock, because a forked child may have inherited a locked one.
        if arrivals.is_counted.load(Ordering::Acquire) {
            return Ok(());
        }
        let _only_one = arrivals.installing.lock().unwrap_or_else(PoisonError::into_inner);
        if arrivals.is_counted.load(Ordering::Acquire) {
            return Ok(());
        }
        // SAFETY: the action is async-signal-safe: it uses atomics, getpid(2) and write(2), and
        // neither allocates nor locks.
        unsafe {
            register(self.signal(), move || {
                let process = Process::current();
                self.arrivals().came.add_one(process);
                listeners::wake_all(process);
            })
        }?;
        arrivals.is_counted.store(true, Ordering::Release);
        Ok(())
    }
}

/// The futures of one runtime that wait for signals, and what was reported to the runtime.
#[derive(Default)]
pub(crate) struct Waiting {
    /// Set when the first of them waits.
    listening: OnceCell<Listening>,
    /// How many of each signal were reported. `None` until the runtime listens.
    reported: [Cell<Option<u32>>; SOURCES.len()],
    /// How many of each signal had come when the waiting futures were last woken.
    seen: Cell<[u32; SOURCES.len()]>,
    /// `None` for a future that was woken, or does not wait yet.
    wakers: RefCell<Slab<Option<Waker>>>,
}

impl Waiting {
    /// Whether any future waits.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.wakers.borrow().is_empty()
    }

    /// Wakes the futures that wait, if a signal has come since the last call.
    pub(crate) fn notice(&self, wakers: &mut Vec<Waker>) {
        let process = Process::current();
        let came = ARRIVALS.each_ref().map(|arrivals| arrivals.came.get(process));
        if self.seen.replace(came) != came {
            let mut waiting = self.wakers.borrow_mut();
            wakers.extend(waiting.iter_mut().filter_map(|(_, waker)| waker.take()));
        }
    }

    /// Makes signals end the sleep of the runtime, which `eventfd` wakes.
    pub(crate) fn register(&self, eventfd: &File) -> io::Result<()> {
        if self.listening.get().is_none() {
            let registered = self.listening.set(Listening::new(eventfd)?);
            registered.expect("a runtime has one thread");
        }
        Ok(())
    }

    /// How many signals were reported to the runtime.
    pub(crate) fn reported(&self, source: Source, process: Process) -> u32 {
        let known = &self.reported[source as usize];
        let reported = known.get().unwrap_or_else(|| source.reported(process));
        known.set(Some(reported));
        reported
    }

    /// Records that all signals that have come were reported to the runtime. Returns how many those
    /// are.
    pub(crate) fn report(&self, source: Source, process: Process) -> u32 {
        let came = source.arrivals().came.get(process);
        source.arrivals().reported.raise_to(came, process);
        self.reported[source as usize].set(Some(came));
        came
    }

    /// Adds a future that waits. Returns its key.
    pub(crate) fn wait(&self, waker: Option<Waker>) -> usize {
        self.wakers.borrow_mut().insert(waker)
    }

    /// Replaces the waker of a future. Drop the result after the borrow.
    pub(crate) fn replace(&self, key: usize, waker: Option<Waker>) -> Option<Waker> {
        mem::replace(&mut self.wakers.borrow_mut()[key], waker)
    }

    /// Removes a future. Drop the result after the borrow.
    pub(crate) fn stop_waiting(&self, key: usize) -> Option<Waker> {
        self.wakers.borrow_mut().remove(key)
    }
}
