//! Fuzzes the decoder of the chunks of an opened datagram.
#![no_main]

#[path = "../../crates/oarlock-layout/tests/feed/mod.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| feed::body(bytes));
