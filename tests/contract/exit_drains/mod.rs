//! The exit drains: seal, cancel, reap, read until `EAGAIN`, deliver. Only then does it close the
//! driver. (`process` has the tests with signals and with the examples.)

mod after_the_seal;
mod drained;
mod thread_end;
