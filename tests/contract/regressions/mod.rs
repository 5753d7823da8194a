//! Bugs, ours and those that others shipped, one file each: the header says what the cause was.
//! They are part of the contract's tests because each of them broke one of its points.

mod abandoned;
mod cut_control;
mod failed_submit;
mod late_completion;
mod sealed_sender;
mod share;
mod waiting;
