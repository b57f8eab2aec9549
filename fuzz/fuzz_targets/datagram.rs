//! Fuzzes the decoder of a datagram before any key was tried.
#![no_main]

#[path = "../../crates/oarlock-layout/tests/feed/mod.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| feed::datagram(bytes));
