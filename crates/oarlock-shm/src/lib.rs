//! Memory that the programs of a node share with it, in which a lock that the node owns is taken and given back by the
//! caller itself, in its own process, by a few atomic instructions (A2, C1, C14).
//!
//! ```text
//!   memory      the cells of a segment: a sealed memfd, or private memory for simulators and tests
//!   caller      a session's side: acquire, release, convert, hand over, wait
//!   outcome     what a caller asks for, and what comes of it
//!   hub         the node's side: implements `Words`, recounts, repairs what a death leaves
//!   names       from a name to a slot
//!   block       value blocks
//!   bells       which slots a caller rang for
//!   lease       the note in which a node says until when its lease lasts
//!   sync        every atomic and every fence
//! ```
//!
//! Start at [`Caller`] for what a program does and at [`Hub`] for what the node does about it. What lies where is
//! agreed in `oarlock_layout::segment`. Why each order is as it is, what was proven and by what: `docs/design/shm.md`.
//!
//! `tests/loom.rs` and `tests/shuttle.rs` try orders; how they are run stands at their heads.
//!
//! There is no clock, no thread and no socket here. `unsafe` stands in `map` and `futex` and nowhere else.

mod bells;
mod block;
mod caller;
mod cells;
#[cfg(not(any(loom, shuttle)))]
mod futex;
mod handover;
mod hub;
#[cfg(not(any(loom, shuttle)))]
mod lease;
#[cfg(not(any(loom, shuttle)))]
mod map;
mod memory;
mod names;
mod outcome;
pub mod planted;
mod search;
mod sync;
#[cfg(loom)]
mod watch;

pub use caller::{Caller, Clock};
pub use hub::Hub;
#[cfg(not(any(loom, shuttle)))]
pub use lease::{LeaseNote, LeaseSight};
#[cfg(not(any(loom, shuttle)))]
pub use map::Birthmark;
pub use memory::{MapError, Memory};
pub use names::Spot;
pub use outcome::{Answer, Gone, Hold, Loss, Missed, Party, Taken, Ticket};
pub use search::First;
