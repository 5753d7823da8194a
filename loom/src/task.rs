//! The files of the runtime's `task/` that threads share.

#[path = "../../runtime/src/task/inbox.rs"]
#[expect(dead_code, reason = "the models use a part of it")]
mod inbox;
#[path = "../../runtime/src/task/root.rs"]
mod root;

pub(crate) use self::inbox::{Inbox, Permission};
pub(crate) use self::root::Root;
