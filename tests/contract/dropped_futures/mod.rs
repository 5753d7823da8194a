//! A dropped future loses nothing. A future that is held and not polled, or forgotten, does not
//! block other tasks or the drain.

mod dropped;
mod held_drains;
mod held_receives;
mod held_sends;
