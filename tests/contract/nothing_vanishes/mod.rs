//! Nothing vanishes silently: what was truncated, dropped, refused, left over, discarded or cut off
//! is counted, and `run` returns an error for it.

mod errors_and_truncation;
mod refused_and_discarded;
mod unsealed;
mod verdicts;
