//! A future that is held and not polled, or forgotten, stalls nobody else: neither other tasks nor
//! the drain.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod drains;
mod receives;
mod sends;
