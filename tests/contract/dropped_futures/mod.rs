//! A dropped future loses nothing, and a future that is held and not polled, or forgotten, stalls
//! nobody else: neither other tasks nor the drain.

mod dropped;
mod held_drains;
mod held_receives;
mod held_sends;
