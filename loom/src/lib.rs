//! Models of how threads interact in the runtime. [loom] runs each model in every interleaving, and
//! with every value that the C11 memory model allows a load to return.
//!
//! The code under test is the files of the runtime, compiled here with the `sync` of this crate:
//!
//! | file | what threads do with it |
//! |---|---|
//! | `runtime/src/task/remote_queue.rs` | hand over tasks, wake the sleeping owner, meet its end |
//! | `runtime/src/task/root.rs` | wake the future of `block_on`, which is in no queue |
//! | `runtime/src/blocking/calls.rs` | end a blocking call, or drop a hold, while the drain looks |
//!
//! The owner's side is written here, after `Runtime::run_until` and `Runtime::submit_and_wait`:
//! take everything, look, set "asleep", look again, sleep, reset "asleep".
//!
//! # What is not modelled
//!
//! * The queue. loom cannot instrument `SegQueue`. A list with a lock replaces it, with a counter
//!   that is read as `SegQueue` reads its indices (see `sync.rs`). `SegQueue` is assumed to be
//!   correct. A push that has advanced the tail and not yet written its slot does not occur here.
//! * The total order of sequentially consistent accesses. loom treats these accesses as acquire and
//!   release, so `sync.rs` adds a fence after each write. The fence is stronger than the access: if
//!   an access after it is weakened, loom does not notice. The mutations with `expect = "missed"`
//!   say which.
//! * Task cells (`async-task`), wakers of futures other than the root, the threads for blocking
//!   calls, the reference counts of `std::sync::Arc`. Their own projects test them.
//! * The kernel: that a write to an eventfd wakes a ring or an epoll that watches it. A lock and a
//!   condition variable replace it. Sleeps that end for another reason (a completion, a timer) do
//!   not occur: they could only hide a lost wake-up.
//! * More than two other threads, and more than a few pushes of each. That is loom's limit.
//!
//! `cargo test -p ebbtide-loom --release` runs the models in seconds. `cargo xtask mutations loom`
//! removes one step at a time and shows which model fails.

mod sync;

#[path = "../../runtime/src/blocking/calls.rs"]
mod calls;
mod task;

pub mod end;
pub mod sleep;
