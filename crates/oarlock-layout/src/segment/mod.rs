//! Where held locks live: counts that the node *and* its callers change (M8).
//!
//! The lock room decides from these counts but does not own them. It gets them as an argument, as it gets
//! `now`, through [`Words`]. What it reads is a claim of this instant; every change is one operation whose
//! *result* decides, so that a caller who takes a lock between a look and a change is never overlooked.
//!
//! [`PlainWords`] is the first implementation: safe, single-threaded, private to its owner. The second is the segment
//! shared with programs; what lies where in it and what its words mean is agreed here: [`Grant`] and [`State`] are
//! the two words that are exchanged, [`geometry`] says where they are.

pub mod geometry;
mod grant;
mod locks;
mod plain;
mod state;
mod words;

pub use geometry::{Geometry, GeometryError};
pub use grant::{Full, Grant};
pub use locks::Locks;
pub use plain::PlainWords;
pub use state::{Stage, State};
pub use words::{Claim, Counts, Entry, MANNER, NoSlot, Notice, Place, Tally, Wake, Word, Words};
