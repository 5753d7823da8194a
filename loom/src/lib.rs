//! Models of what threads do to each other in the runtime: [loom] runs each of them in every
//! interleaving, and with every value that the C11 memory model allows a load to give.
//!
//! The code under test is that of the runtime, the same files, compiled here against the `sync` of
//! this crate instead of its own:
//!
//! | file | what threads do with it |
//! |---|---|
//! | `runtime/src/task/remote_queue.rs` | hand tasks over, wake the sleeping owner, meet its end |
//! | `runtime/src/task/root.rs` | wake the future of `block_on`, which is in no queue |
//! | `runtime/src/blocking/calls.rs` | end a blocking call, or let go of the exit, while the drain looks whether one is left |
//!
//! The owner's side is written here after `Runtime::run_until` and `Runtime::submit_and_wait`:
//! take everything, look, say "asleep", look again, sleep, say "awake".
//!
//! # What is not modelled
//!
//! * The queue. `SegQueue` knows nothing of loom; a list behind a lock stands in for it, with a
//!   counter that is read as `SegQueue` reads its indices (see `sync.rs`). Its own correctness is
//!   taken on trust, and a push that has advanced the tail and not yet written its slot does not
//!   occur here.
//! * Total order of the sequentially consistent accesses by itself: loom treats them as acquire and
//!   release, so `sync.rs` adds the fence that makes the difference after each such write. The fence
//!   is stronger than the access: an access after it can be weakened unseen. The mutations with
//!   `expect = "missed"` say which.
//! * Task cells (`async-task`), wakers of futures other than the root, the threads for blocking calls,
//!   the reference counts of `std::sync::Arc`: tested by their own projects.
//! * The kernel: that an eventfd which was written wakes a ring or an epoll that watches it, once it
//!   was armed. A lock and a condition stand in. Sleeps that end for another reason (a completion, a
//!   timer) do not occur: they could only hide a lost wake.
//! * More than two other threads, and more than a few pushes of each: loom's limit, not the code's.
//!
//! `cargo test -p ebbtide-loom --release` runs them, in seconds. `cargo xtask mutations loom` takes
//! out one step at a time and shows which model fails.

mod sync;

#[path = "../../runtime/src/blocking/calls.rs"]
mod calls;
mod task;

pub mod end;
pub mod sleep;
