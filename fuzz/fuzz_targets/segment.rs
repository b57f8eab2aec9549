//! Fuzzes what a node reads out of a segment: the first byte says whether the hub alone, the lock room or a whole node
//! stands over it; the others say what programs call and what a foreign hand writes before each look.
#![no_main]

#[path = "../../crates/oarlock-shm/tests/feed/mod.rs"]
mod hub;
#[path = "../../crates/oarlock-node/tests/feed/mod.rs"]
mod node;
#[path = "../../crates/oarlock-lock/tests/feed/mod.rs"]
mod room;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| match bytes.split_first() {
    Some((b'h', bytes)) => hub::hub(bytes),
    Some((b'r', bytes)) => room::shared(bytes),
    Some((b'n', bytes)) => node::shared(bytes),
    _ => {}
});
