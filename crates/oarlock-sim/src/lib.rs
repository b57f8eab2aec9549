//! Many nodes, one thread, one seed; a checker per promise.
#![forbid(unsafe_code)]

pub mod check;
pub mod history;
