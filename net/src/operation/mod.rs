//! What sockets ask of the driver beyond their receive, one file per verb.

mod send;
mod writable;

pub(crate) use send::Send;
pub(crate) use writable::{OpenSocket, writable};
