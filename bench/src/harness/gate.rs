//! [`Gate`]: where the receiver's sockets meet between the stages of a measurement.
//!
//! The contestant does not know the stages. The tally that counts the last datagram of a stage
//! calls the gate. The gate lets the load generator go on. It starts the clock at the end of the
//! warm-up, and stops it at the end of the last stage. So the clock runs for the measured phase
//! only, and every contestant is warm when it starts: tasks are spawned, receives armed, memory
//! touched.
//!
//! While the generator fills a backlog, the receiver sleeps, but its CPU clock is not stopped: a
//! ring without `DEFER_TASKRUN` receives in the sleeping thread, and that has to count. (With a
//! stopped clock, a ring with `COOP_TASKRUN` and 512 buffers seemed to receive at 60 % of the
//! cost.)

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use parking_lot::Mutex;

use super::fail;
use super::memory::resident_bytes;
use super::stopwatch::{Clock, Elapsed, Stopwatch};

/// How the stages follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// Each measured stage is queued in full before the clock runs.
    Backlog,
    /// The generator sends while the receiver receives; one measured stage.
    Live,
    /// The generator does not wait at the end of the warm-up: a closed loop.
    Seamless,
}

/// What a gate has measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) elapsed: Elapsed,
    /// Resident memory of the receiver when the clock stopped.
    pub(crate) resident: u64,
}

pub(crate) struct Gate {
    pace: Pace,
    sockets: usize,
    /// Measured stages, after the warm-up.
    stages: usize,
    state: Mutex<State>,
}

struct State {
    /// Sockets that have finished the stage.
    arrived: usize,
    /// Stages that are over, the warm-up among them.
    over: usize,
    watch: Stopwatch,
    /// To the generator.
    control: UnixStream,
    measured: Option<Measured>,
}

impl Gate {
    pub(crate) fn new(
        pace: Pace,
        sockets: usize,
        stages: usize,
        clock: Clock,
        control: UnixStream,
    ) -> Self {
        let watch = Stopwatch::new(clock);
        let state = State { arrived: 0, over: 0, watch, control, measured: None };
        Self { pace, sockets, stages, state: Mutex::new(state) }
    }

    /// A socket has received all of its stage. Blocks the thread while the generator fills the
    /// next one; nothing is queued on any socket meanwhile.
    pub(crate) fn arrive(&self) {
        let mut state = self.state.lock();
        state.arrived += 1;
        if state.arrived < self.sockets {
            return;
        }
        state.arrived = 0;
        if state.over == self.stages {
            state.watch.stop();
            let resident = resident_bytes();
            state.measured = Some(Measured { elapsed: state.watch.total(), resident });
            return;
        }
        state.over += 1;
        match self.pace {
            Pace::Backlog => {
                if state.over == 1 {
                    state.watch.start();
                }
                let State { watch, control, .. } = &mut *state;
                watch.except(|| {
                    start_stage(control);
                    wait(control);
                });
            }
            Pace::Live => {
                state.watch.start();
                start_stage(&mut state.control);
            }
            Pace::Seamless => state.watch.start(),
        }
    }

    /// What was measured, once the contestant is done.
    pub(crate) fn measured(&self) -> Measured {
        let state = self.state.lock();
        state.measured.unwrap_or_else(|| fail("the contestant returned before it had everything"))
    }
}

/// Lets the generator begin the next stage.
fn start_stage(control: &mut UnixStream) {
    if let Err(error) = control.write_all(b"n") {
        fail(&format!("the load generator is gone: {error}"));
    }
}

/// Waits until the stage is queued in full.
fn wait(control: &mut UnixStream) {
    if let Err(error) = control.read_exact(&mut [0]) {
        fail(&format!("the load generator is gone: {error}"));
    }
}
