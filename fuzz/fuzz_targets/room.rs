//! Fuzzes the lock room with the messages of hostile peers and the requests of careless programs.
#![no_main]

#[path = "../../crates/oarlock-lock/tests/feed/mod.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| feed::room(bytes));
