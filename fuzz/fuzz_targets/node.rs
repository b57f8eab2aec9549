//! Fuzzes a whole node with what careless programs send on their sockets.
#![no_main]

#[path = "../../crates/oarlock-node/tests/feed/mod.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| feed::node(bytes));
