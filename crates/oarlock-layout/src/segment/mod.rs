//! Where held locks live: counts that the node *and* its callers change (M8).
//!
//! The lock room decides from these counts but does not own them. It gets them as an argument, as it gets
//! `now`, through [`Words`]. What it reads is a claim of this instant; every change is one operation whose
//! *result* decides, so that a caller who takes a lock between a look and a change is never overlooked.
//!
//! [`PlainWords`] is the first implementation: safe, single-threaded, private to its owner.

mod plain;
mod words;

pub use plain::PlainWords;
pub use words::{Claim, Counts, Entry, MANNER, NoSlot, Notice, Word, Words};
