//! Socket addresses: `net/src/sys/address.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ebbtide_net::fuzzing::address(input));
