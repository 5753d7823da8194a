//! Control messages: `net/src/sys/control.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ebbtide_net::fuzzing::control(input));
