//! What sockets ask of the driver beyond their receive, one file per verb.

mod room;

pub(crate) use room::Room;
