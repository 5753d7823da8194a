//! How a driver enters the kernel: for how long, and how it went.

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

/// How an enter went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnterOutcome {
    /// As asked, or cut short by a signal or the time.
    Done,
    /// The kernel had no memory for it just now; what was pushed is still queued.
    Refused,
    /// The kernel lost completions for want of memory.
    CompletionLost,
    /// It failed for an unexpected reason, which
    /// [`Driver::failure`](super::Driver::failure) returns. What was pushed is still queued.
    Failed,
}
