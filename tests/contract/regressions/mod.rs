//! Bugs of Ebbtide and of other runtimes, one in each file. The header names the cause. They are
//! tests of the contract, because each of them broke one of its points.

mod abandoned;
mod cut_control;
mod failed_submit;
mod late_completion;
mod sealed_sender;
mod share;
mod waiting;
