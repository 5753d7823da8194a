//! The exit drains: seal, cancel, reap, read until `EAGAIN`, deliver. Only then is the driver torn
//! down. (With signals, in examples: `process`.)

mod after_the_seal;
mod drained;
mod thread_end;
