//! The files of the runtime's `task/` that threads share.

#[path = "../../runtime/src/task/remote_queue.rs"]
#[expect(dead_code, reason = "the models use a part of it")]
mod remote_queue;
#[path = "../../runtime/src/task/root.rs"]
mod root;

pub(crate) use self::remote_queue::{Permission, RemoteQueue};
pub(crate) use self::root::Root;
