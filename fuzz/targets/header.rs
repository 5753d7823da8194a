//! Received messages: `runtime/src/driver/message.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ebbtide_runtime::driver::fuzz_message(input));
