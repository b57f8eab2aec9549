//! Fuzzes the replay window against a set.
#![no_main]

#[path = "../../crates/oarlock-circuit/tests/feed/mod.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| feed::replay(bytes));
