//! Fuzzes the decoder of what a program sends to its node.
#![no_main]

#[path = "../../crates/oarlock-layout/tests/feed/mod.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| feed::message::<oarlock_layout::message::session::Request>(bytes));
