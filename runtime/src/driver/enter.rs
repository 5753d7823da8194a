//! How a driver enters the kernel: how long it may sleep, and how it went.

use std::time::Duration;

/// How long an enter may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// Until there is a completion, or the time is over.
    AtMost(Duration),
    /// Until there is a completion.
    Forever,
}

/// The outcome of an enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnterOutcome {
    /// It succeeded, or was ended by a signal or the time limit.
    Done,
    /// The kernel had no memory for it now. What was pushed is still queued.
    Refused,
    /// The kernel has lost completions because it was out of memory.
    CompletionLost,
    /// It failed for an unexpected reason, which [`Driver::failure`](super::Driver::failure)
    /// returns. What was pushed is still queued.
    Failed,
}
