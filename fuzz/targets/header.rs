//! Received messages: `net/src/datagram/receive/message.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ebbtide_net::fuzzing::header(input));
