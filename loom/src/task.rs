//! The files of the runtime's `task/` that several threads use.

#[path = "../../runtime/src/task/remote_queue.rs"]
#[expect(dead_code, reason = "the models use only a part")]
mod remote_queue;
#[path = "../../runtime/src/task/root.rs"]
mod root;

pub(crate) use self::remote_queue::{Permission, RemoteQueue};
pub(crate) use self::root::Root;
