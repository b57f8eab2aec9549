//! Fuzzes the decoder of messages that form a view.
#![no_main]

#[path = "../../crates/oarlock-layout/tests/feed/mod.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| feed::message::<oarlock_layout::message::form::Form>(bytes));
