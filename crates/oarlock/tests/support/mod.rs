//! Stand-ins for the daemon: [`Script`], where the test speaks every word of the daemon itself, and
//! [`honest`], which keeps a small lock table.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod honest;
pub mod script;

pub use honest::Honest;
pub use script::{Peer, Script};
