//! Fuzzes a whole circuit: opened bodies, handshakes and raw datagrams in any order.
#![no_main]

#[path = "../../crates/oarlock-circuit/tests/feed/mod.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| feed::circuit(bytes));
