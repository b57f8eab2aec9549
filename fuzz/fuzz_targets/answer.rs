//! Fuzzes the decoder of answers between coordinators.
#![no_main]

#[path = "../../crates/oarlock-layout/tests/feed/mod.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| feed::message::<oarlock_layout::message::raft::Answer>(bytes));
