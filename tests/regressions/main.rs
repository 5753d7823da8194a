//! Bugs, ours and those that others shipped, one file each: the header says what the cause was.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/control.rs"]
mod control_message;
#[path = "../support/seccomp.rs"]
mod seccomp;

mod abandoned;
mod cut_control;
mod failed_submit;
mod late_completion;
mod sealed_sender;
mod share;
mod waiting;
